use etcdmon_proto::v1;

use super::admission::check;

mod streams;

fn hello() -> v1::Hello {
    v1::Hello {
        agent_id: vec![1; 16],
        epoch: vec![2; 16],
        protocol_min: 1,
        protocol_max: 1,
        agent_version: "0.1.0".to_owned(),
        node_name: "node".to_owned(),
        boot_id: vec![3; 16],
        ..Default::default()
    }
}

#[test]
fn a_hello_in_our_protocol_is_admitted() {
    let facts = check(hello()).unwrap();
    assert_eq!(facts.agent.as_bytes(), &[1; 16]);
    let newer = v1::Hello { protocol_max: 2, ..hello() };
    assert!(check(newer).is_ok(), "an agent that also speaks a later generation");
}

#[test]
fn other_hellos_are_refused_with_the_reason() {
    let refused = |hello: v1::Hello| check(hello).unwrap_err().message().to_owned();
    let newer = refused(v1::Hello { protocol_min: 2, protocol_max: 3, ..hello() });
    assert!(newer.ends_with("upgrade the aggregator"), "{newer}");
    let older = refused(v1::Hello { protocol_min: 0, protocol_max: 0, ..hello() });
    assert!(older.ends_with("upgrade the agent"), "{older}");
    let nonsense = refused(v1::Hello { protocol_min: 3, protocol_max: 1, ..hello() });
    assert!(nonsense.ends_with("hello is corrupt"), "{nonsense}");
    assert!(refused(v1::Hello { agent_id: vec![1; 15], ..hello() }).contains("agent_id"));
    assert!(refused(v1::Hello { agent_id: vec![0; 16], ..hello() }).contains("agent_id"));
    assert!(refused(v1::Hello { epoch: Vec::new(), ..hello() }).contains("epoch"));
}

#[test]
fn long_names_are_cut_at_a_character() {
    let facts = check(v1::Hello { node_name: "ä".repeat(1_000), ..hello() }).unwrap();
    assert_eq!(facts.node, "ä".repeat(128));
}
