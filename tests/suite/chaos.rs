//! Chaos: kill -9, SIGTERM, SIGSTOP, full disks and cut connections under load; what was seen is stored exactly once.

use etcdmon_tests::chaos::run::{Options, run, seed};
use etcdmon_tests::suite::{by_tier, skip_without_root};

/// S10, T3, T4: whoever dies or stops, whatever runs full or is cut: what was spooled is stored exactly once, and what is
/// missing is accounted for.
#[test]
fn nothing_spooled_is_lost_or_doubled_whoever_is_killed() {
    if skip_without_root("probes and perf") {
        return;
    }
    let options = Options { events: by_tier(20, 200), stands: by_tier(vec![1, 1], vec![3, 1, 1]) };
    if let Err(error) = run(seed(), &options) {
        panic!("{error:#}");
    }
}
