use super::*;

const AGENT_1: Uuid = Uuid::from_u128(1);
const AGENT_2: Uuid = Uuid::from_u128(2);
const CLUSTER: Uuid = Uuid::from_u128(0xc);

fn at(seconds: i64) -> At {
    At::from_nanos(1_700_000_000_000_000_000 + seconds * 1_000_000_000)
}

fn member(id: u64, leader: u64, term: u64) -> v1::LiveMember {
    v1::LiveMember {
        member: Some(v1::Member {
            cluster_id: 7,
            member_id: id,
            name: format!("m{id}"),
            ..Default::default()
        }),
        running: true,
        scrape_ok: true,
        has_leader: leader != 0,
        is_leader: leader == id,
        leader_id: leader,
        raft_term: term,
        ..Default::default()
    }
}

fn send(model: &mut Model, at: At, agent: Uuid, number: u64, members: Vec<v1::LiveMember>) -> Applied {
    send_epoch(model, at, agent, 1, number, members)
}

fn send_epoch(
    model: &mut Model,
    at: At,
    agent: Uuid,
    epoch: u8,
    number: u64,
    members: Vec<v1::LiveMember>,
) -> Applied {
    let live = v1::Live { epoch: vec![epoch; 16], number, members, ..Default::default() };
    model.apply(
        at,
        LiveMessage { agent, version: "1", node: "n", allowed_commands: &[], live: &live },
        |_| CLUSTER,
    )
}

fn health(model: &Model, now: At, member: u64) -> &'static str {
    model.health(now, CLUSTER, member).unwrap().name()
}

#[test]
fn silence_of_more_than_five_seconds_is_unknown() {
    let mut model = Model::default();
    send(&mut model, at(0), AGENT_1, 1, vec![member(1, 1, 2)]);
    assert_eq!(health(&model, at(5), 1), "healthy");
    assert_eq!(health(&model, at(6), 1), "unknown");
    model.tick(at(6));
    assert_eq!(model.cluster(CLUSTER).unwrap().leadership.present(), None);
    assert_eq!(model.leaderless(at(6), CLUSTER), Leaderless::Unknown);
}

#[test]
fn a_process_that_is_gone_is_down_since_its_first_report() {
    let mut model = Model::default();
    let mut gone = member(1, 1, 2);
    send(&mut model, at(0), AGENT_1, 1, vec![gone.clone()]);
    gone.running = false;
    gone.scrape_ok = false;
    for second in 1..10 {
        send(&mut model, at(second), AGENT_1, 2 + second as u64, vec![gone.clone()]);
    }
    assert_eq!(model.health(at(9), CLUSTER, 1), Some(Health::Gone { since: at(1) }));
}

#[test]
fn messages_that_are_not_newer_change_nothing() {
    let mut model = Model::default();
    send(&mut model, at(0), AGENT_1, 5, vec![member(1, 1, 2)]);
    send(&mut model, at(1), AGENT_1, 5, vec![]);
    send(&mut model, at(2), AGENT_1, 4, vec![]);
    assert_eq!(model.faults().stale, 2);
    assert_eq!(model.agents().next().unwrap().1.last_seen, at(0));
}

#[test]
fn lost_messages_are_counted_per_epoch() {
    let mut model = Model::default();
    send(&mut model, at(0), AGENT_1, 1, vec![]);
    send(&mut model, at(1), AGENT_1, 5, vec![]);
    assert_eq!(model.agents().next().unwrap().1.lost, 3);
    send_epoch(&mut model, at(2), AGENT_1, 2, 1, vec![]);
    assert_eq!(model.agents().next().unwrap().1.lost, 0);
}

/// A message of `second`, whose number is the second.
fn live_of(second: i64, late: bool, live_member: v1::LiveMember) -> v1::Live {
    let mut counts = vec![0; etcdmon_histogram::BUCKETS];
    counts[700] = 10 * u64::try_from(second).unwrap();
    let syncs = vec![v1::LiveSyncs {
        file_class: v1::FileClass::Wal as i32,
        latency: Some(v1::Histogram::from_counts(&counts, 0)),
    }];
    v1::Live {
        epoch: vec![1; 16],
        number: u64::try_from(second).unwrap(),
        sent_mono_ns: u64::try_from(second).unwrap() * 1_000_000_000,
        wall_minus_mono_ns: at(0).nanos(),
        members: vec![v1::LiveMember { syncs, ..live_member }],
        late,
        ..Default::default()
    }
}

fn take(model: &mut Model, now: At, live: &v1::Live) -> Applied {
    model.apply(
        now,
        LiveMessage { agent: AGENT_1, version: "", node: "", allowed_commands: &[], live },
        |_| CLUSTER,
    )
}

#[test]
fn what_comes_late_completes_the_past_and_says_nothing_about_now() {
    let mut model = Model::default();
    (1..=10).for_each(|second| drop(take(&mut model, at(second), &live_of(second, false, member(1, 1, 2)))));
    take(&mut model, at(40), &live_of(40, false, member(1, 3, 4)));
    assert_eq!(model.agents().next().unwrap().1.lost, 29);
    let before = model.clone();
    for second in 11..40 {
        // Down for a while, and with another leader in between: all of it is over.
        let mut then = if second < 20 { member(1, 1, 2) } else { member(1, 2, 3) };
        if second > 30 {
            then = member(1, 3, 4);
        }
        then.running = !(13..15).contains(&second);
        let applied = take(&mut model, at(45), &live_of(second, true, then.clone()));
        assert!(applied.late);
        if second == 20 {
            let change = Change { at: at(20), from: 1, to: 2, term: 3 };
            assert_eq!(applied.leader_changes, [(CLUSTER, change)], "at its true time");
        }
        take(&mut model, at(45), &live_of(second, true, then));
    }
    let (_, agent) = model.agents().next().unwrap();
    assert_eq!((agent.lost, agent.late, agent.number), (0, 29, 40));
    assert_eq!(model.faults().stale, 29, "each came twice");
    assert_eq!(agent.last_seen, at(40), "late is no sign of life");
    let cluster = model.cluster(CLUSTER).unwrap();
    let times: Vec<_> = cluster.leadership.changes().iter().map(|c| (c.at, c.from, c.to, c.term)).collect();
    assert_eq!(times, [(at(20), 1, 2, 3), (at(31), 2, 3, 4)]);
    let present = |model: &Model| model.cluster(CLUSTER).unwrap().leadership.present();
    assert_eq!(present(&model), present(&before));
    let window = |model: &Model| {
        let member = &model.cluster(CLUSTER).unwrap().members[&1];
        let minute = Duration::from_secs(60);
        (
            member.syncs(at(45), v1::FileClass::Wal, minute).count,
            member.syncs_history(at(45), v1::FileClass::Wal, minute).count,
        )
    };
    assert_eq!((window(&before), window(&model)), ((90, 90), (90, 390)));
    for second in [40, 44, 46] {
        assert_eq!(health(&model, at(second), 1), health(&before, at(second), 1));
    }
}

#[test]
fn an_aggregator_that_began_anew_learns_the_past_late() {
    let mut model = Model::default();
    take(&mut model, at(40), &live_of(40, false, member(1, 3, 4)));
    assert_eq!(model.agents().next().unwrap().1.lost, 0);
    for second in 10..40 {
        let then = if second < 20 { member(1, 1, 2) } else { member(1, 3, 4) };
        take(&mut model, at(41), &live_of(second, true, then));
    }
    let cluster = model.cluster(CLUSTER).unwrap();
    let minute = Duration::from_secs(60);
    assert_eq!(cluster.members[&1].syncs_history(at(41), v1::FileClass::Wal, minute).count, 300);
    assert_eq!(cluster.members[&1].syncs(at(41), v1::FileClass::Wal, minute).count, 0);
    let changes: Vec<_> = cluster.leadership.changes().iter().copied().collect();
    assert_eq!(changes, [Change { at: at(20), from: 1, to: 3, term: 4 }]);
}

#[test]
fn late_messages_of_another_process_of_the_future_or_long_past_change_nothing() {
    let mut model = Model::default();
    let stranger = live_of(5, true, member(1, 1, 2));
    take(&mut model, at(6), &stranger);
    assert_eq!(model.clusters().count(), 0, "nobody vouches for it");
    take(&mut model, at(700), &live_of(700, false, member(1, 1, 2)));
    let mut other = live_of(650, true, member(1, 1, 2));
    other.epoch = vec![2; 16];
    for late in [other, live_of(99, true, member(1, 1, 2)), live_of(701, true, member(1, 1, 2))] {
        take(&mut model, at(700), &late);
    }
    assert_eq!((model.faults().stale, model.agents().next().unwrap().1.late), (4, 0));
}

#[test]
fn the_highest_term_wins_and_the_majority_within_it() {
    let say = |member, leader, term| Statement { member, leader: Some(leader), term };
    assert_eq!(agree(&[]), None);
    assert_eq!(agree(&[Statement { member: 1, leader: None, term: 9 }]), None);
    let now = agree(&[say(1, 1, 2), say(2, 3, 3), say(3, 3, 3)]).unwrap();
    assert_eq!((now.leader, now.term, now.followers, now.dissenters), (3, 3, 2, 0));
    let split = agree(&[say(1, 1, 4), say(2, 3, 4), say(3, 3, 4)]).unwrap();
    assert_eq!((split.leader, split.followers, split.dissenters), (3, 2, 1));
}

#[test]
fn a_change_of_leader_is_seen_once_with_from_and_to() {
    let mut model = Model::default();
    assert!(send(&mut model, at(0), AGENT_1, 1, vec![member(1, 1, 2)]).leader_changes.is_empty());
    send(&mut model, at(0), AGENT_2, 1, vec![member(2, 1, 2)]);
    let applied = send(&mut model, at(1), AGENT_2, 2, vec![member(2, 2, 3)]);
    assert_eq!(applied.leader_changes, [(CLUSTER, Change { at: at(1), from: 1, to: 2, term: 3 })]);
    assert!(send(&mut model, at(2), AGENT_1, 2, vec![member(1, 2, 3)]).leader_changes.is_empty());
    let (now, since) = model.cluster(CLUSTER).unwrap().leadership.present().unwrap();
    assert_eq!((now.leader, now.followers, since), (2, 2, at(1)));
}

#[test]
fn a_straggler_of_an_older_term_is_no_change_back() {
    let mut model = Model::default();
    send(&mut model, at(0), AGENT_1, 1, vec![member(1, 1, 2)]);
    send(&mut model, at(0), AGENT_2, 1, vec![member(2, 2, 3)]);
    // Agent 2 falls silent; member 1 still believes in its old leader.
    assert!(send(&mut model, at(10), AGENT_1, 2, vec![member(1, 1, 2)]).leader_changes.is_empty());
    assert!(send(&mut model, at(11), AGENT_2, 2, vec![member(2, 2, 3)]).leader_changes.is_empty());
    assert_eq!(model.cluster(CLUSTER).unwrap().leadership.changes_total(), 1);
}

#[test]
fn a_new_term_of_the_same_leader_is_a_change() {
    let mut model = Model::default();
    send(&mut model, at(0), AGENT_1, 1, vec![member(1, 1, 2)]);
    let applied = send(&mut model, at(1), AGENT_1, 2, vec![member(1, 1, 4)]);
    assert_eq!(applied.leader_changes.len(), 1);
}

#[test]
fn the_agent_that_sees_the_process_run_is_believed() {
    let mut model = Model::default();
    let mut gone = member(1, 1, 2);
    gone.running = false;
    send(&mut model, at(0), AGENT_1, 1, vec![gone.clone()]);
    send(&mut model, at(0), AGENT_2, 1, vec![member(1, 1, 2)]);
    assert_eq!(health(&model, at(1), 1), "healthy");
    // The one that saw it run falls silent: the other one's old news is no proof.
    send(&mut model, at(10), AGENT_1, 2, vec![gone]);
    assert_eq!(health(&model, at(10), 1), "unknown");
}

#[test]
fn two_agents_on_one_process_do_not_count_its_syncs_twice() {
    let mut model = Model::default();
    for second in 0..5u64 {
        for agent in [AGENT_1, AGENT_2] {
            let mut live = member(1, 1, 2);
            let mut counts = vec![0; etcdmon_histogram::BUCKETS];
            counts[100] = 10 * second;
            live.syncs = vec![v1::LiveSyncs {
                file_class: v1::FileClass::Wal as i32,
                latency: Some(v1::Histogram::from_counts(&counts, 0)),
            }];
            send(&mut model, at(second as i64), agent, second + 1, vec![live]);
        }
    }
    let member = &model.cluster(CLUSTER).unwrap().members[&1];
    assert_eq!(member.syncs(at(4), v1::FileClass::Wal, Duration::from_secs(10)).count, 40);
}

#[test]
fn a_corrupt_histogram_is_counted_and_the_rest_taken() {
    let mut model = Model::default();
    let mut live = member(1, 1, 2);
    live.syncs = vec![v1::LiveSyncs {
        file_class: v1::FileClass::Wal as i32,
        latency: Some(v1::Histogram { bucket_delta: vec![5, 0, 9_999], count: vec![1], sum_ns: 0 }),
    }];
    send(&mut model, at(0), AGENT_1, 1, vec![live]);
    assert_eq!(model.faults().corrupt, 1);
    assert_eq!(health(&model, at(0), 1), "healthy");
}

#[test]
fn members_without_identity_and_beyond_the_bound_are_refused() {
    let mut model = Model::default();
    let nobody = v1::LiveMember::default();
    let many = (1..=MAX_MEMBERS as u64 + 3).map(|id| member(id, 1, 2));
    send(&mut model, at(0), AGENT_1, 1, many.chain([nobody]).collect());
    assert_eq!(model.faults().refused, 4);
    assert_eq!(model.cluster(CLUSTER).unwrap().members.len(), MAX_MEMBERS);
    let mut listing = member(1, 1, 2);
    listing.peers = (1_000..3_000).map(|id| v1::PeerMember { member_id: id, ..Default::default() }).collect();
    send(&mut model, at(1), AGENT_1, 2, vec![listing]);
    assert!(model.cluster(CLUSTER).unwrap().members.len() <= MAX_MEMBERS);
}

#[test]
fn a_member_known_only_from_the_list_is_unknown() {
    let mut model = Model::default();
    let mut listing = member(1, 1, 2);
    listing.peers = [1, 2].map(|id| v1::PeerMember { member_id: id, ..Default::default() }).to_vec();
    send(&mut model, at(0), AGENT_1, 1, vec![listing]);
    assert_eq!(model.health(at(0), CLUSTER, 2), Some(Health::Unknown { since: None }));
    assert!(!model.is_removed(at(0), CLUSTER, 2) && model.is_removed(at(0), CLUSTER, 3));
    assert!(!model.is_removed(at(60), CLUSTER, 3), "an old list proves nothing");
}

fn remote(id: u64, leader: u64, reach: v1::Reach) -> v1::LiveMember {
    let answers = reach == v1::Reach::Answers;
    v1::LiveMember { running: answers, scrape_ok: answers, reach: reach.into(), ..member(id, leader, 2) }
}

#[test]
fn what_the_network_alone_shows_is_told_apart() {
    for (reach, expected) in [
        (v1::Reach::Answers, Health::Up),
        (v1::Reach::CutOff, Health::CutOff { since: at(0) }),
        (v1::Reach::Lost, Health::Lost { since: at(0) }),
        (v1::Reach::Unknown, Health::Unknown { since: Some(at(0)) }),
        (v1::Reach::Hangs, Health::Unresponsive { since: at(0) }),
    ] {
        let mut model = Model::default();
        send(&mut model, at(0), AGENT_1, 1, vec![remote(1, 1, reach)]);
        send(&mut model, at(1), AGENT_1, 2, vec![remote(1, 1, reach)]);
        let health = model.health(at(1), CLUSTER, 1).unwrap();
        assert_eq!(health, expected, "{reach:?}");
        assert_eq!(health.is_down(), matches!(reach, v1::Reach::Lost | v1::Reach::Hangs));
    }
}

#[test]
fn an_agent_is_believed_before_what_the_network_alone_shows() {
    let mut model = Model::default();
    send(&mut model, at(0), AGENT_2, 1, vec![remote(1, 1, v1::Reach::Answers)]);
    send(&mut model, at(1), AGENT_1, 1, vec![member(1, 1, 2)]);
    assert_eq!(model.report(at(1), CLUSTER, 1).unwrap().0, AGENT_1, "although it came later");
    send(&mut model, at(2), AGENT_2, 2, vec![remote(1, 1, v1::Reach::Lost)]);
    assert_eq!(health(&model, at(2), 1), "healthy");
    let gone = v1::LiveMember { running: false, scrape_ok: false, ..member(1, 1, 2) };
    send(&mut model, at(3), AGENT_1, 2, vec![gone]);
    send(&mut model, at(3), AGENT_2, 3, vec![remote(1, 1, v1::Reach::CutOff)]);
    assert_eq!(health(&model, at(3), 1), "down", "its own node knows best");
    send(&mut model, at(9), AGENT_2, 4, vec![remote(1, 1, v1::Reach::Unknown)]);
    assert_eq!(model.report(at(9), CLUSTER, 1).unwrap().0, AGENT_2, "once the agent is silent");
    send(&mut model, at(10), AGENT_2, 5, vec![remote(1, 1, v1::Reach::Answers)]);
    assert_eq!(health(&model, at(10), 1), "healthy");
}

#[test]
fn a_member_that_is_no_longer_asked_over_the_network_is_not_down_for_that() {
    let mut model = Model::default();
    send(&mut model, at(0), AGENT_2, 1, vec![remote(1, 1, v1::Reach::Answers)]);
    for second in 1..=20 {
        send(&mut model, at(second), AGENT_2, 1 + second as u64, Vec::new());
    }
    assert_eq!(health(&model, at(20), 1), "unknown");
    send(&mut model, at(21), AGENT_1, 1, vec![member(1, 1, 2)]);
    send(&mut model, at(40), AGENT_2, 50, Vec::new());
    assert_eq!(health(&model, at(40), 1), "unknown", "its agent is silent, and nobody else looks");
}

#[test]
fn the_agents_clock_is_compared_with_ours() {
    let mut model = Model::default();
    let live = v1::Live {
        epoch: vec![1; 16],
        number: 1,
        sent_mono_ns: 5_000,
        wall_minus_mono_ns: at(3).nanos() - 5_000,
        ..Default::default()
    };
    model.apply(
        at(1),
        LiveMessage { agent: AGENT_1, version: "", node: "", allowed_commands: &[], live: &live },
        |_| CLUSTER,
    );
    assert_eq!(model.agents().next().unwrap().1.clock_offset_ns, 2_000_000_000);
}

proptest::proptest! {
    /// Whatever agents send, nothing panics and the bounds hold.
    #[test]
    fn foreign_messages_never_panic(
        messages in proptest::collection::vec(
            (0u128..4, 0u8..3, 0u64..20, proptest::collection::vec((0u64..9, 0u64..4, 0u64..5, proptest::bool::ANY,
                proptest::collection::vec(proptest::num::u32::ANY, 0..4)), 0..4), -20i64..20),
            0..60,
        )
    ) {
        let mut model = Model::default();
        let mut now = at(100);
        for (agent, epoch, number, members, seconds) in messages {
            now = now.shifted(seconds * 1_000_000_000);
            let members = members.into_iter().map(|(id, leader, term, running, buckets)| {
                let mut live = member(id, leader, term);
                live.running = running;
                live.peers = (0..term).map(|id| v1::PeerMember { member_id: id, ..Default::default() }).collect();
                live.syncs = vec![v1::LiveSyncs { file_class: 1, latency: Some(v1::Histogram {
                    count: buckets.iter().map(|b| u64::from(*b) << 32).collect(), bucket_delta: buckets, sum_ns: 0 }) }];
                live
            }).collect();
            send_epoch(&mut model, now, Uuid::from_u128(agent), epoch, number, members);
            model.tick(now);
            model.leaderless(now, CLUSTER);
            for (id, cluster) in model.clusters() {
                for member in cluster.members.keys() {
                    model.health(now, id, *member);
                }
            }
        }
    }
}

#[test]
fn who_is_not_heard_of_is_forgotten_and_makes_room() {
    let mut model = Model::default();
    (1..=3).for_each(|second| drop(take(&mut model, at(second), &live_of(second, false, member(1, 1, 2)))));
    let kept = |model: &Model| model.cluster(CLUSTER).unwrap().members[&1].recent_syncs(at(3), KEPT).count();
    model.tick(at(100));
    assert_eq!(kept(&model), 2);
    model.tick(at(124));
    assert_eq!(kept(&model), 0, "of a member that fell silent");
    let day = 24 * 3600;
    model.tick(at(6 * day));
    assert_eq!((model.agents().count(), health(&model, at(6 * day), 1)), (1, "unknown"));
    send(&mut model, at(6 * day), AGENT_2, 1, vec![member(2, 2, 3)]);
    model.tick(at(8 * day));
    assert_eq!(model.agents().map(|(id, _)| id).collect::<Vec<_>>(), [AGENT_2]);
    assert!(!model.cluster(CLUSTER).unwrap().members[&1].is_reported());
    model.tick(at(14 * day));
    assert_eq!((model.agents().count(), model.clusters().count()), (0, 0));
}
