//! What the kernel saw of the last moments, as evidence for an autopsy.

use std::collections::HashMap;
use std::time::Duration;

use super::examine::Evidence;
use crate::autopsy::Gaps;
use crate::autopsy::evidence::Request;
use crate::ebpf::{Position, Probes};

/// Requests that are under way for so long behind later ones of their disk, which are done, have ended unseen. A disk that hangs
/// completes no later ones, so what lies on it is believed.
const PASSED_BY: Duration = Duration::from_secs(10);

/// The same before the kernel's memory of them is given up: a command that its driver takes for lost after half a minute, and
/// sends again, may yet be seen to end.
const GIVEN_UP: Duration = Duration::from_secs(90);

/// Most records that are not whole in one reading.
const HOLES: usize = 64;

/// All that the circular arrays still hold, and what is not over yet.
pub fn gather(probes: Option<&Probes>) -> Evidence {
    let Some(probes) = probes else {
        let unseen = Gaps { requests: true, commits: true, overwritten: false };
        return Evidence { unseen, ..Evidence::default() };
    };
    let under_way = probes.requests_under_way();
    let mut requests = read_all(|since, into| probes.requests(since, into));
    let mut commits = read_all(|since, into| probes.commits(since, into));
    // In the order of their completion: before the first one some are missing, if any is.
    let complete_since_ns = match requests.records.first() {
        Some(first) if requests.are_overwritten => first.completed_ns,
        _ => 0,
    };
    let newest = newest_done(&requests.records);
    let believed = under_way.into_iter().filter(|request| !is_passed_by(&newest, request, PASSED_BY));
    requests.records.extend(believed);
    commits.records.extend(probes.commits_under_way());
    let facts = probes.facts();
    let is_off = |capability: &str| facts.degraded.iter().any(|off| off.capability == capability);
    let unseen = Gaps {
        requests: is_off("block.hooks") || is_off("block.submitter"),
        commits: is_off("journal.hooks"),
        overwritten: requests.are_torn || commits.are_torn,
    };
    Evidence { requests: requests.records, commits: commits.records, complete_since_ns, unseen }
}

/// Has the kernel's memory of requests that have ended unseen given up; it would fill with them.
pub fn give_up(probes: &Probes) {
    if probes.requests_under_way().is_empty() {
        return;
    }
    let done = read_all(|since, into| probes.requests(since, into));
    let newest = newest_done(&done.records);
    probes.give_up_requests(|request| is_passed_by(&newest, request, GIVEN_UP));
}

/// When the newest of the requests that are done began, disk by disk.
fn newest_done(done: &[Request]) -> HashMap<u32, u64> {
    let mut newest: HashMap<u32, u64> = HashMap::new();
    for request in done {
        let ns = newest.entry(request.device).or_default();
        *ns = (*ns).max(begin_ns(request));
    }
    newest
}

fn is_passed_by(newest: &HashMap<u32, u64>, request: &Request, by: Duration) -> bool {
    let by_ns = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
    newest.get(&request.device).is_some_and(|ns| *ns > begin_ns(request).saturating_add(by_ns))
}

fn begin_ns(request: &Request) -> u64 {
    request.queued_ns.max(request.issued_ns)
}

/// What a circular array holds.
struct Held<R> {
    records: Vec<R>,
    /// There were older ones.
    are_overwritten: bool,
    /// Between them some are missing.
    are_torn: bool,
}

/// Reads a circular array from its beginning. A record that is being written, or whose place was given out twice (kernels before
/// 5.12), hides none of those behind it.
fn read_all<R>(read: impl Fn(Position, &mut Vec<R>) -> Position) -> Held<R> {
    let mut records = Vec::new();
    let mut position = read(Position::default(), &mut records);
    let are_overwritten = position.overwritten() > 0;
    let mut are_torn = false;
    for _ in 0..HOLES {
        if !position.is_awaiting() {
            break;
        }
        position = read(position, &mut records);
        are_torn |= position.overwritten() > 0;
    }
    Held { records, are_overwritten, are_torn: are_torn || position.is_awaiting() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ebpf::test_positions;

    const SECOND: u64 = 1_000_000_000;

    fn request(device: u32, queued_ns: u64) -> Request {
        Request { device, queued_ns, ..Request::default() }
    }

    #[test]
    fn requests_that_later_ones_of_their_disk_passed_by_are_not_believed() {
        let newest = newest_done(&[request(1, 20 * SECOND), request(1, 3 * SECOND), request(2, SECOND)]);
        let is_passed_by = |request: &Request| is_passed_by(&newest, request, PASSED_BY);
        assert!(is_passed_by(&request(1, SECOND)));
        assert!(!is_passed_by(&request(1, 10 * SECOND)), "it may still be under way");
        // Issued later than queued: that counts.
        assert!(!is_passed_by(&Request { issued_ns: 15 * SECOND, ..request(1, SECOND) }));
    }

    #[test]
    fn a_disk_that_hangs_keeps_what_lies_on_it() {
        let newest = newest_done(&[request(2, 500 * SECOND), request(3, 2 * SECOND)]);
        assert!(!is_passed_by(&newest, &request(1, SECOND), PASSED_BY), "nothing of it is done");
        assert!(!is_passed_by(&newest, &request(3, SECOND), PASSED_BY), "nothing that began later is done");
    }

    #[test]
    fn a_record_that_never_comes_hides_none_behind_it() {
        // Of five records, the second and the fourth were never written.
        let holes = [1, 3];
        let read = |since: Position, into: &mut Vec<u64>| test_positions::read(&holes, 5, since, into);
        let held = read_all(read);
        assert_eq!((held.records, held.are_overwritten, held.are_torn), (vec![0, 2, 4], false, true));
        let held = read_all(|since, into| test_positions::read(&[], 3, since, into));
        assert_eq!((held.records, held.are_overwritten, held.are_torn), (vec![0, 1, 2], false, false));
    }
}
