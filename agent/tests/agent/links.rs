//! What an aggregator says back, and what becomes of the streams when it goes away. S10, T2.

use std::time::Duration;

use etcdmon_proto::v1::{self, batch_reply, live_reply};

use crate::support::agent::Agent;
use crate::support::aggregator::Aggregator;
use crate::support::etcd::{Etcd, VERSIONS};
use crate::support::wait_for;

const LIMIT: Duration = Duration::from_secs(40);

fn live_count(aggregator: &Aggregator) -> u64 {
    aggregator.seen.lock().unwrap().live_count
}

fn redirect(url: String) -> v1::Redirect {
    v1::Redirect { url, reason: "test".to_owned(), for_seconds: 3600 }
}

#[test]
fn after_a_break_every_summary_arrives_once_the_newest_first_and_the_others_late() {
    let directory = tempfile::tempdir().unwrap();
    let Some(etcd) = Etcd::start(VERSIONS[0], directory.path()) else { return };
    let server = Aggregator::start();
    let address = server.address;
    let agent = Agent::start(directory.path(), address, &[]);
    wait_for("live summaries", LIMIT, || (live_count(&server.aggregator) > 3).then_some(()));
    let aggregator = server.aggregator.clone();
    drop(server);
    let before = aggregator.seen.lock().unwrap().live_numbers.last().unwrap().0;
    etcd.put(20);
    std::thread::sleep(Duration::from_secs(8));
    let _server = aggregator.serve(address);
    wait_for("the gap is closed", LIMIT, || {
        let seen = aggregator.seen.lock().unwrap();
        let mut numbers: Vec<u64> = seen.live_numbers.iter().map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        (numbers.len() as u64 == *numbers.last()? && numbers.len() as u64 > before + 10).then_some(())
    });
    let seen = aggregator.seen.lock().unwrap();
    let back = seen.live_numbers.iter().position(|(number, _)| *number > before).unwrap();
    assert!(!seen.live_numbers[back].1, "the newest state first: {:?}", seen.live_numbers);
    let late: Vec<u64> =
        seen.live_numbers.iter().filter(|(_, late)| *late).map(|(number, _)| *number).collect();
    assert!(late.len() >= 7 && late.is_sorted(), "{late:?}");
    let newest = seen.late.clone().unwrap();
    assert_eq!(newest.members.len(), 1);
    assert!(newest.members[0].peers.is_empty() && newest.members[0].raft_term > 0, "{newest:?}");
    drop(seen);
    let page = agent.page("/metrics");
    assert!(page.contains("etcdmon_agent_aggregator_breaker_state{stream=\"live\"} 0"), "{page}");
    assert!(agent.page("/readyz").contains("aggregator live: breaker closed"));
    assert!(agent.stop().success());
}

#[test]
fn a_redirect_is_followed_by_either_stream_and_left_when_the_target_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let Some(_etcd) = Etcd::start(VERSIONS[0], directory.path()) else { return };
    let (home, away) = (Aggregator::start(), Aggregator::start());
    let agent = Agent::start(directory.path(), home.address, &[]);
    wait_for("live summaries at home", LIMIT, || (live_count(&home.aggregator) > 1).then_some(()));
    for url in ["https://127.0.0.1:1".to_owned(), format!("http://{}", away.address)] {
        let (batches, live) = (&home.aggregator.say_on_batches, &home.aggregator.say_on_live);
        batches.lock().unwrap().push(Some(batch_reply::Message::Redirect(redirect(url.clone()))));
        live.lock().unwrap().push(Some(live_reply::Message::Redirect(redirect(url))));
    }
    wait_for("both streams go there", LIMIT, || {
        let seen = away.aggregator.seen.lock().unwrap();
        (seen.live_count > 2 && seen.batches.len() > 1).then_some(())
    });
    assert!(agent.log().contains("redirect not followed"), "another scheme");
    let before = live_count(&home.aggregator);
    let batches_before = home.aggregator.seen.lock().unwrap().batches.len();
    drop(away);
    wait_for("both streams come back", LIMIT, || {
        let batches = home.aggregator.seen.lock().unwrap().batches.len();
        (live_count(&home.aggregator) > before + 1 && batches > batches_before + 1).then_some(())
    });
    assert!(agent.stop().success());
}

#[test]
fn a_target_that_never_answers_costs_one_attempt() {
    let directory = tempfile::tempdir().unwrap();
    let Some(_etcd) = Etcd::start(VERSIONS[0], directory.path()) else { return };
    let home = Aggregator::start();
    let agent = Agent::start(directory.path(), home.address, &[]);
    wait_for("live summaries", LIMIT, || (live_count(&home.aggregator) > 1).then_some(()));
    let nowhere = redirect("http://127.0.0.1:9".to_owned());
    home.aggregator.say_on_live.lock().unwrap().push(Some(live_reply::Message::Redirect(nowhere)));
    wait_for("the redirect is followed", LIMIT, || agent.log().contains("redirected").then_some(()));
    let before = live_count(&home.aggregator);
    wait_for("the stream is back", LIMIT, || (live_count(&home.aggregator) > before + 3).then_some(()));
    assert!(agent.stop().success());
}

#[test]
fn replies_of_a_later_generation_are_skipped_and_the_pace_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let Some(_etcd) = Etcd::start(VERSIONS[0], directory.path()) else { return };
    let server = Aggregator::start();
    let agent = Agent::start(directory.path(), server.address, &[]);
    wait_for("batches", LIMIT, || (server.aggregator.seen.lock().unwrap().batches.len() > 1).then_some(()));
    let pace = v1::Pace { batch_interval_ms: 4_000, window_batches: 1, reason: "test".to_owned() };
    server.aggregator.say_on_live.lock().unwrap().extend([None, None]);
    server.aggregator.say_on_batches.lock().unwrap().extend([
        None,
        Some(batch_reply::Message::Pace(pace)),
        None,
    ]);
    wait_for("the pace is taken", LIMIT, || agent.log().contains("another pace").then_some(()));
    let live = live_count(&server.aggregator);
    let batches = server.aggregator.seen.lock().unwrap().batches.len();
    wait_for("live goes on", LIMIT, || (live_count(&server.aggregator) >= live + 12).then_some(()));
    let more = server.aggregator.seen.lock().unwrap().batches.len() - batches;
    assert!((1..=6).contains(&more), "{more} batches in the time of 12 summaries, at 4 s each");
    assert_eq!(server.aggregator.seen.lock().unwrap().hellos.len(), 1, "one stream all the time");
    assert!(agent.stop().success());
}
