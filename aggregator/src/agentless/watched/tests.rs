use super::*;
use crate::agentless::spec::Spec;
use etcdmon_etcd::status::ResponseHeader;
use etcdmon_service::settings::ParseSetting as _;

const CLUSTER: u64 = 0xc1;

fn at(seconds: i64) -> At {
    At::from_nanos(1_700_000_000_000_000_000 + seconds * 1_000_000_000)
}

fn watched(endpoints: &[&str]) -> (Watched, u64) {
    let text = format!(r#"{{"name":"blue","endpoints":{}}}"#, serde_json::to_string(endpoints).unwrap());
    let target = Spec::parse(&text).unwrap().check().unwrap();
    let mut number = 0;
    let watched = Watched::new(target, || {
        number += 1;
        number
    });
    (watched, number)
}

fn status(member: u64, leader: u64) -> Answer {
    status_of(CLUSTER, member, leader)
}

fn status_of(cluster_id: u64, member_id: u64, leader: u64) -> Answer {
    let header = Some(ResponseHeader { cluster_id, member_id, ..ResponseHeader::default() });
    Answer::Status(Ok(Box::new(Status { header, leader, raft_term: 3, ..Status::default() })))
}

fn failure(refused: bool) -> Answer {
    Answer::Status(Err(Failure { text: "connect to it".to_owned(), refused, hangs: false }))
}

fn page(member: u64, peers: &[(u64, bool)]) -> Answer {
    Answer::Page(Ok(Box::new(Page {
        member: Some(member),
        peers: peers.iter().copied().collect(),
        ..Page::default()
    })))
}

fn list(ids: &[u64]) -> Answer {
    let member = |id: &u64| v1::PeerMember {
        member_id: *id,
        name: format!("m{id}"),
        client_urls: vec![format!("http://10.0.0.{id}:2379")],
        ..v1::PeerMember::default()
    };
    Answer::Members(ids.iter().map(member).collect())
}

/// Member 1 was given, 2 and 3 were found; all answer. Points have the numbers of their members.
fn three() -> Watched {
    let (mut watched, mut last) = watched(&["http://10.0.0.1:2379"]);
    watched.take(1, status(1, 1), at(0));
    watched.take(1, list(&[1, 2, 3]), at(0));
    let (new, over) = watched.reconcile(|| {
        last += 1;
        last
    });
    assert_eq!((new.len(), over.len()), (2, 0));
    for (number, _) in new {
        watched.take(number, status(number, 1), at(0));
    }
    watched
}

fn reach(watched: &Watched, member: u64) -> (v1::Reach, String) {
    let live = watched.live(at(9), &BTreeSet::new());
    let live = live.iter().find(|live| live.member.as_ref().is_some_and(|m| m.member_id == member));
    live.map_or((v1::Reach::Unspecified, String::new()), |live| (live.reach(), live.scrape_error.clone()))
}

#[test]
fn one_endpoint_is_enough_to_find_the_others() {
    let watched = three();
    assert_eq!(watched.cluster, Some(CLUSTER));
    let live = watched.live(at(9), &BTreeSet::new());
    assert_eq!(live.len(), 3);
    assert!(
        live.iter()
            .all(|live| live.running && live.scrape_ok && live.leader_id == 1 && live.peers.len() == 3)
    );
    assert_eq!(live.iter().filter(|live| live.is_leader).count(), 1);
}

#[test]
fn members_come_and_go_with_the_list() {
    let mut watched = three();
    watched.take(1, list(&[1, 3, 4]), at(5));
    let (new, over) = watched.reconcile(|| 9);
    assert_eq!((new.len(), new[0].1.to_string()), (1, "http://10.0.0.4:2379".to_owned()));
    assert_eq!(over, [2]);
    let named: Vec<u64> = watched
        .live(at(9), &BTreeSet::new())
        .iter()
        .map(|live| live.member.as_ref().unwrap().member_id)
        .collect();
    assert_eq!(named, [1, 3], "4 has not answered and not failed yet");
}

#[test]
fn a_given_endpoint_is_recognized_by_what_answers_there() {
    let (mut watched, _) = watched(&["http://tunnel:2379", "http://other:2379"]);
    watched.take(1, status(1, 1), at(0));
    watched.take(2, status(2, 1), at(0));
    watched.take(1, list(&[1, 2]), at(0));
    assert_eq!(watched.reconcile(|| 9).0, [], "both are known by other addresses");
    watched.take(2, status(1, 1), at(1));
    let nobody = BTreeSet::new();
    assert_eq!(
        (watched.mode(1, &nobody), watched.mode(2, &nobody)),
        (Mode::Full, Mode::Listen),
        "one is enough"
    );
    assert_eq!(watched.reconcile(|| 9).0.len(), 1, "now member 2 needs an endpoint");
}

#[test]
fn a_member_that_its_peers_lost_is_lost() {
    let mut watched = three();
    watched.take(2, failure(false), at(1));
    assert_eq!(reach(&watched, 2).0, v1::Reach::Answers, "a single failure is nothing");
    watched.take(2, failure(false), at(2));
    assert_eq!(reach(&watched, 2).0, v1::Reach::Unknown, "no evidence yet");
    assert_eq!(watched.to_look_at(at(2), &BTreeSet::new()), [1, 3]);
    watched.take(1, page(1, &[(2, false), (3, true)]), at(3));
    let (lost, reason) = reach(&watched, 2);
    assert_eq!(
        (lost, reason.as_str()),
        (v1::Reach::Lost, "connect to it; 1 of 1 other members have lost it")
    );
    watched.take(2, status(2, 1), at(4));
    assert_eq!(reach(&watched, 2).0, v1::Reach::Answers);
}

#[test]
fn a_member_that_a_peer_still_sees_is_only_cut_off() {
    let mut watched = three();
    watched.take(1, page(1, &[(2, false)]), at(0));
    watched.take(2, failure(true), at(1));
    assert_eq!(reach(&watched, 2).0, v1::Reach::Unknown, "what was seen before proves nothing");
    watched.take(1, page(1, &[(2, false)]), at(2));
    watched.take(3, page(3, &[(2, true)]), at(2));
    let (cut_off, reason) = reach(&watched, 2);
    assert_eq!(
        (cut_off, reason.as_str()),
        (v1::Reach::CutOff, "connect to it; 1 of 2 other members are connected with it")
    );
    assert_eq!(watched.to_look_at(at(5), &BTreeSet::new()), [1, 3], "peers may need a while to notice");
    assert_eq!(watched.to_look_at(at(60), &BTreeSet::new()), [0u64; 0], "but not for ever");
}

#[test]
fn without_anybody_to_ask_only_a_refused_connection_says_something() {
    let mut alone = three();
    for point in 1..=3 {
        alone.take(point, failure(true), at(1));
    }
    assert!((1..=3).all(|member| reach(&alone, member).0 == v1::Reach::Lost));
    let mut cut = three();
    for point in [1, 1, 2, 2, 3, 3] {
        cut.take(point, failure(false), at(1));
    }
    assert!((1..=3).all(|member| reach(&cut, member).0 == v1::Reach::Unknown));
}

#[test]
fn a_member_that_accepts_connections_but_never_answers_hangs() {
    let mut watched = three();
    let hangs = || Answer::Status(Err(Failure { text: "no answer".to_owned(), refused: false, hangs: true }));
    watched.take(2, hangs(), at(0));
    watched.take(2, hangs(), at(3));
    watched.take(1, page(1, &[(2, true)]), at(4));
    assert_eq!(reach(&watched, 2).0, v1::Reach::CutOff, "for a while that may be anything");
    let live = watched.live(at(10), &BTreeSet::new());
    let stuck = live.iter().find(|live| live.member.as_ref().is_some_and(|m| m.member_id == 2)).unwrap();
    assert_eq!((stuck.reach(), stuck.running), (v1::Reach::Hangs, false));
}

#[test]
fn what_agents_watch_is_left_out_and_asked_for_little() {
    let watched = three();
    let covered = BTreeSet::from([2]);
    assert_eq!(watched.live(at(9), &covered).len(), 2);
    assert_eq!((watched.mode(1, &covered), watched.mode(2, &covered)), (Mode::Full, Mode::Listen));
}

#[test]
fn another_cluster_and_a_load_balancer_are_named() {
    let (mut watched, _) = watched(&["http://a:1", "http://b:1"]);
    watched.take(1, status(1, 1), at(0));
    let taken = watched.take(2, status_of(0xff, 9, 0), at(0));
    assert!(
        matches!(taken.told, Some(Told::Failing(reason)) if reason.contains("belongs to cluster 00000000000000ff"))
    );
    assert!(watched.take(1, page(7, &[]), at(0)).samples.is_none());
    assert!(watched.points[&1].page_failure.as_ref().is_some_and(|reason| reason.contains("load balancer")));
}

#[test]
fn a_cluster_that_was_restored_from_a_backup_is_watched_under_its_new_id() {
    let mut watched = three();
    watched.take(1, status_of(0xff, 11, 11), at(1));
    assert_eq!(watched.cluster, Some(CLUSTER), "the others still have the old one");
    assert!(watched.points[&1].unusable.is_some());
    for point in [2, 2, 3, 3] {
        watched.take(point, failure(false), at(2));
    }
    watched.take(1, status_of(0xff, 11, 11), at(3));
    assert_eq!((watched.cluster, &watched.points[&1].unusable), (Some(0xff), &None));
    assert_eq!(watched.live(at(9), &BTreeSet::new()), [], "of the new members nothing is known yet");
    watched.take(2, status_of(0xff, 12, 11), at(4));
    watched.take(1, list(&[11, 12]), at(4));
    assert_eq!((reach(&watched, 12).0, reach(&watched, 2).0), (v1::Reach::Answers, v1::Reach::Unspecified));
}

#[test]
fn foreign_texts_and_lists_are_bounded() {
    let mut watched = three();
    let errors = vec!["x".repeat(100_000); 1_000];
    let header = Some(ResponseHeader { cluster_id: CLUSTER, member_id: 1, ..ResponseHeader::default() });
    let version = "ä".repeat(10_000);
    watched.take(
        1,
        Answer::Status(Ok(Box::new(Status { header, errors, version, leader: 1, ..Status::default() }))),
        at(0),
    );
    let many: Vec<u64> = (1..10_000).collect();
    watched.take(1, list(&many), at(0));
    let mut number = 100;
    watched.reconcile(|| {
        number += 1;
        number
    });
    assert!(watched.points.len() <= MAX_MEMBERS + 3, "{}", watched.points.len());
    let live = watched.live(at(9), &BTreeSet::new());
    let size: usize = live.iter().map(prost::Message::encoded_len).sum();
    assert!(size < 200_000, "{size}");
}
