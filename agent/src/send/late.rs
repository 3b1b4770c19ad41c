//! Summaries that could not be delivered in time.
//!
//! Every live summary is kept, in a compact form, until the aggregator has answered it. After a break the newest summary goes
//! first, as always; once it is answered, those of the break follow one by one, oldest first, marked late.
//!
//! Bounded by age and by bytes. What goes beyond is forgotten and counted: of these summaries nothing is lost that is stored,
//! only the resolution of the live charts.

use std::collections::VecDeque;
use std::time::Duration;

use etcdmon_proto::v1;
use prost::Message;

/// How far back summaries are kept.
pub const KEPT: Duration = Duration::from_secs(600);

/// Most memory for them. A member with a busy disk takes about 700 bytes a second.
pub const LIMIT_BYTES: usize = 4 << 20;

/// Late summaries that may be unanswered at a time.
const WINDOW: usize = 16;

/// A late summary without an answer for so long is sent again.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What an entry costs besides its bytes.
const OVERHEAD: usize = size_of::<Entry>() + 16;

#[derive(Debug)]
struct Entry {
    number: u64,
    mono_ns: u64,
    encoded: Box<[u8]>,
    /// Monotonic time at which it was sent on the present stream.
    sent_ns: Option<u64>,
    /// Whether that was in time.
    in_time: bool,
}

/// See the module. Times are of the monotonic clock.
#[derive(Debug, Default)]
pub struct Undelivered {
    /// By rising number.
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Highest number that was sent as the present state.
    newest_sent: u64,
    /// Forgotten without an answer.
    forgotten: u64,
}

impl Undelivered {
    /// Keeps a summary until it is answered.
    pub fn keep(&mut self, live: &v1::Live) {
        if self.entries.back().is_some_and(|newest| newest.number >= live.number) {
            return;
        }
        let encoded = compact(live).encode_to_vec().into_boxed_slice();
        self.bytes += encoded.len() + OVERHEAD;
        let (number, mono_ns) = (live.number, live.sent_mono_ns);
        self.entries.push_back(Entry { number, mono_ns, encoded, sent_ns: None, in_time: false });
        while self.entries.front().is_some_and(|oldest| {
            self.bytes > LIMIT_BYTES || u128::from(mono_ns.saturating_sub(oldest.mono_ns)) > KEPT.as_nanos()
        }) {
            self.forget_oldest();
        }
    }

    /// Notes that the summary of this number goes out as the present state.
    pub fn sent_in_time(&mut self, number: u64, now_ns: u64) {
        self.newest_sent = self.newest_sent.max(number);
        if let Some(entry) = self.find(number) {
            let entry = &mut self.entries[entry];
            (entry.sent_ns, entry.in_time) = (Some(now_ns), true);
        }
    }

    /// Notes an answer. Whether its summary was sent in time: not known, hence no, of one that nobody waits for, such as the second
    /// answer to a summary that was sent again.
    pub fn answered(&mut self, number: u64) -> bool {
        let found = self.find(number).and_then(|position| self.entries.remove(position));
        found.is_some_and(|entry| {
            self.bytes -= entry.encoded.len() + OVERHEAD;
            entry.in_time
        })
    }

    /// The stream is gone: what it left unanswered has to be sent again.
    pub fn stream_ended(&mut self) {
        self.entries.iter_mut().for_each(|entry| entry.sent_ns = None);
    }

    /// Whether something is to be sent late.
    pub fn is_waiting(&self) -> bool {
        self.entries.iter().any(|entry| entry.number < self.newest_sent && entry.sent_ns.is_none())
            || self.entries.front().is_some_and(|entry| entry.number < self.newest_sent)
    }

    /// The next summary to send late, as the message to send; `None` when there is none or enough are unanswered.
    pub fn next(&mut self, now_ns: u64, wall_minus_mono_ns: i64) -> Option<v1::Live> {
        let overdue = |sent_ns: u64| u128::from(now_ns.saturating_sub(sent_ns)) > ANSWER_WITHIN.as_nanos();
        let unanswered = |entry: &&Entry| entry.sent_ns.is_some_and(|sent_ns| !overdue(sent_ns));
        if self.entries.iter().filter(unanswered).count() >= WINDOW {
            return None;
        }
        let newest_sent = self.newest_sent;
        let entry = self
            .entries
            .iter_mut()
            .take_while(|entry| entry.number < newest_sent)
            .find(|entry| entry.sent_ns.is_none_or(overdue))?;
        (entry.sent_ns, entry.in_time) = (Some(now_ns), false);
        // Encoded by `keep`.
        let live = v1::Live::decode(&*entry.encoded).ok()?;
        Some(v1::Live { late: true, wall_minus_mono_ns, ..live })
    }

    /// How many were forgotten since the last call.
    pub const fn take_forgotten(&mut self) -> u64 {
        std::mem::replace(&mut self.forgotten, 0)
    }

    /// Summaries that wait for their answer.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Memory held, in bytes.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    fn find(&self, number: u64) -> Option<usize> {
        self.entries.binary_search_by_key(&number, |entry| entry.number).ok()
    }

    fn forget_oldest(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= entry.encoded.len() + OVERHEAD;
            self.forgotten += 1;
        }
    }
}

/// What a late summary carries: counts and the state of raft. Names, addresses and lists are of no use late.
fn compact(live: &v1::Live) -> v1::Live {
    let members = live.members.iter().map(|member| {
        let identity = member.member.as_ref().map(|identity| v1::Member {
            cluster_id: identity.cluster_id,
            member_id: identity.member_id,
            process: identity.process.clone(),
            ..v1::Member::default()
        });
        v1::LiveMember {
            member: identity,
            scrape_error: String::new(),
            version: String::new(),
            errors: Vec::new(),
            peers: Vec::new(),
            boot_failure: None,
            vitals: None,
            slow_syncs: member
                .slow_syncs
                .as_ref()
                .map(|slow| v1::LiveSlowSyncs { culprits: Vec::new(), ..slow.clone() }),
            ..member.clone()
        }
    });
    v1::Live {
        epoch: live.epoch.clone(),
        number: live.number,
        sent_mono_ns: live.sent_mono_ns,
        members: members.collect(),
        ..v1::Live::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn live(number: u64) -> v1::Live {
        let peers = vec![v1::PeerMember::default(); 50];
        let members = vec![v1::LiveMember { raft_term: number, peers, ..v1::LiveMember::default() }];
        v1::Live { number, sent_mono_ns: number * SECOND, members, ..v1::Live::default() }
    }

    fn numbers(undelivered: &mut Undelivered, now: u64) -> Vec<u64> {
        std::iter::from_fn(|| undelivered.next(now, 7)).map(|live| live.number).collect()
    }

    #[test]
    fn what_is_answered_is_never_sent_late() {
        let mut undelivered = Undelivered::default();
        for number in 1..100 {
            undelivered.keep(&live(number));
            undelivered.sent_in_time(number, number * SECOND);
            assert!(undelivered.answered(number));
            assert!(!undelivered.is_waiting());
        }
        assert_eq!((undelivered.len(), undelivered.bytes()), (0, 0));
    }

    #[test]
    fn an_answer_to_what_was_late_or_to_nothing_is_none_in_time() {
        let mut undelivered = Undelivered::default();
        (1..=2).for_each(|number| undelivered.keep(&live(number)));
        undelivered.sent_in_time(2, 0);
        assert_eq!(numbers(&mut undelivered, 0), [1]);
        assert!(!undelivered.answered(1), "it was late");
        assert!(!undelivered.answered(1), "a second answer, since it was sent again");
        assert!(undelivered.answered(2) && !undelivered.answered(2));
    }

    #[test]
    fn after_a_break_all_of_it_goes_oldest_first_and_marked_once_the_newest_was_sent() {
        let mut undelivered = Undelivered::default();
        (1..=9).for_each(|number| undelivered.keep(&live(number)));
        assert!(!undelivered.is_waiting() && undelivered.next(0, 0).is_none(), "the newest goes first");
        undelivered.sent_in_time(9, 0);
        assert!(undelivered.is_waiting());
        let first = undelivered.next(0, 7).expect("waits");
        assert_eq!((first.number, first.late, first.wall_minus_mono_ns), (1, true, 7));
        assert_eq!((first.sent_mono_ns, first.members[0].raft_term), (SECOND, 1));
        assert_eq!(first.members[0].peers, [], "no lists");
        assert_eq!(numbers(&mut undelivered, 0), [2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn unanswered_ones_are_bounded_and_sent_again_later_or_on_the_next_stream() {
        let mut undelivered = Undelivered::default();
        (1..=100).for_each(|number| undelivered.keep(&live(number)));
        undelivered.sent_in_time(100, 0);
        let sent = numbers(&mut undelivered, 0);
        assert_eq!(sent.len(), WINDOW - 1, "the newest is unanswered as well");
        assert!(!undelivered.answered(2));
        assert_eq!(numbers(&mut undelivered, 1), [16]);
        assert_eq!(numbers(&mut undelivered, 11 * SECOND)[..2], [1, 3], "no answer came");
        undelivered.stream_ended();
        undelivered.keep(&live(101));
        undelivered.sent_in_time(101, 12 * SECOND);
        assert_eq!(numbers(&mut undelivered, 12 * SECOND)[..3], [1, 3, 4]);
    }

    #[test]
    fn age_and_bytes_are_bounded_and_what_is_forgotten_is_counted() {
        let mut undelivered = Undelivered::default();
        (1..=1_000).for_each(|number| undelivered.keep(&live(number)));
        assert_eq!((undelivered.len(), undelivered.take_forgotten()), (601, 399));
        let counts = vec![1_234_567; 810];
        let latency = Some(v1::Histogram::from_counts(&counts, 9));
        for number in 2_000..2_600 {
            let syncs = vec![v1::LiveSyncs { file_class: 1, latency: latency.clone() }; 6];
            let members = vec![v1::LiveMember { syncs, ..v1::LiveMember::default() }];
            undelivered.keep(&v1::Live { members, ..live(number) });
            assert!(undelivered.bytes() <= LIMIT_BYTES);
        }
        assert!(undelivered.take_forgotten() > 600 && undelivered.len() > 100);
    }
}
