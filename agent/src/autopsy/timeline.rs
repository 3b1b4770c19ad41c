//! When what was under way: spans, laid over the window in one sweep.
//!
//! Every span belongs to a [`Lane`]; at each instant the lanes that are busy decide what we were waiting for ([`Slot`]), first
//! match wins. The sweep also shares the instants in which we waited for devices among all that was under way on them: the
//! time of an instant is divided by the weight of all, and every request takes as much as it weighs. Integers only, so that
//! the order of evidence does not matter.

/// What may be under way. The order is that of the array of counts, not of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// A request of the syncing thread is on the device.
    OwnDevice,
    /// It asks for a flush and carries nothing.
    OwnFlush,
    /// It needs flushes before or after its data, and is not done yet.
    OwnWithFlush,
    /// The same, and its data are on the device, or were and are flushed.
    OwnFuaDevice,
    /// It waits for the device.
    OwnQueue,
    /// The same of requests that others submitted for the file.
    FileDevice,
    /// As [`Lane::OwnFlush`].
    FileFlush,
    /// As [`Lane::OwnWithFlush`].
    FileWithFlush,
    /// As [`Lane::OwnFuaDevice`].
    FileFuaDevice,
    /// As [`Lane::OwnQueue`].
    FileQueue,
    /// The file's pages were held back before they became a request.
    Held,
    /// A flush of ours was held back, or something else charged to us of which the file is not known.
    HeldPerhaps,
    /// The same as for our own requests, of the journal.
    JournalDevice,
    /// As [`Lane::OwnFlush`].
    JournalFlush,
    /// As [`Lane::OwnWithFlush`].
    JournalWithFlush,
    /// As [`Lane::OwnFuaDevice`].
    JournalFuaDevice,
    /// As [`Lane::OwnQueue`].
    JournalQueue,
    /// The journal commits.
    Commit,
    /// The flush machinery has a flush on the device.
    Flush,
    /// Requests of whomever on our disk, for its depth.
    Any,
}

/// Number of lanes.
const LANES: usize = Lane::Any as usize + 1;

/// What an instant was spent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Device, ours.
    Device,
    /// Queue, ours.
    Queue,
    /// Flush, ours.
    Flush,
    /// Held back, proved by a late request of the file.
    Throttle,
    /// The journal's request is on the device.
    JournalDevice,
    /// The journal's request waits for the device.
    JournalQueue,
    /// The journal waits for a flush.
    JournalFlush,
    /// The journal commits, and nothing of it is seen on the device.
    Journal,
    /// A flush, but nothing says that it is ours.
    FlushPerhaps,
    /// The device had as many requests as it takes, none of them ours.
    QueueFull,
    /// Held back, by weaker evidence.
    ThrottlePerhaps,
}

/// Number of slots.
pub const SLOTS: usize = Slot::ThrottlePerhaps as usize + 1;

impl Slot {
    /// Whether we waited for a disk.
    const fn is_device_wait(self) -> bool {
        !matches!(self, Self::Throttle | Self::ThrottlePerhaps | Self::Journal)
    }

    const fn is_flush(self) -> bool {
        matches!(self, Self::Flush | Self::JournalFlush | Self::FlushPerhaps)
    }
}

/// A span of a lane; both ends lie in the window.
#[derive(Clone, Copy, Debug)]
struct Edge {
    at_ns: u64,
    begins: bool,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Lane(Lane),
    /// Weight of something that nobody is to be named for: ours, the journal's.
    Ours(u64),
    /// Weight of a request that may be to blame, and its place in [`Timeline::claims`].
    Claim(u64, u32),
}

/// Something that shares in the blame while it is under way.
#[derive(Clone, Copy, Debug, Default)]
struct Claim {
    mark: u128,
    /// Time × 2³².
    blamed: u128,
}

/// Spans of one window.
#[derive(Debug)]
pub struct Timeline {
    from_ns: u64,
    until_ns: u64,
    depth: u32,
    /// Weight of what lies in the device's cache when a flush begins.
    cached: u64,
    edges: Vec<Edge>,
    claims: Vec<Claim>,
}

/// What came of a sweep.
#[derive(Debug)]
pub struct Swept {
    /// Time of each slot.
    pub slots: [u64; SLOTS],
    /// Time in which we waited for disks.
    pub wait_ns: u64,
    /// Time of that for which each claim is to blame, in the order of claiming.
    pub claimed: Vec<u128>,
    /// Time for which a cached weight of one is to blame.
    pub per_cached: u128,
}

/// Fraction bits of blame.
pub const BLAME_BITS: u32 = 32;

impl Timeline {
    /// Of a window. `depth` is how many requests its disk takes (0 = not known), `cached` the weight of what a flush has to write.
    pub fn new(from_ns: u64, until_ns: u64, depth: u32, cached: u64) -> Self {
        Self { from_ns, until_ns, depth, cached, edges: Vec::new(), claims: Vec::new() }
    }

    /// A span of a lane.
    pub fn add(&mut self, lane: Lane, from_ns: u64, until_ns: u64) {
        self.span(What::Lane(lane), from_ns, until_ns);
    }

    /// Something of ours with a weight is under way.
    pub fn add_ours(&mut self, weight: u64, from_ns: u64, until_ns: u64) {
        self.span(What::Ours(weight), from_ns, until_ns);
    }

    /// Something with a weight that may be to blame is under way. Returns its place in [`Swept::claimed`].
    pub fn claim(&mut self, weight: u64, from_ns: u64, until_ns: u64) -> usize {
        let place = self.claims.len();
        self.claims.push(Claim::default());
        self.span(What::Claim(weight, u32::try_from(place).unwrap_or(u32::MAX)), from_ns, until_ns);
        place
    }

    fn span(&mut self, what: What, from_ns: u64, until_ns: u64) {
        let (from_ns, until_ns) = (from_ns.max(self.from_ns), until_ns.min(self.until_ns));
        if from_ns < until_ns {
            self.edges.push(Edge { at_ns: from_ns, begins: true, what });
            self.edges.push(Edge { at_ns: until_ns, begins: false, what });
        }
    }

    /// Goes through the window once.
    pub fn sweep(mut self) -> Swept {
        self.edges.sort_unstable_by_key(|edge| edge.at_ns);
        let mut swept = Swept { slots: [0; SLOTS], wait_ns: 0, claimed: Vec::new(), per_cached: 0 };
        let (mut counts, mut weight, mut meter) = ([0_u32; LANES], 0_u64, 0_u128);
        let mut last_ns = self.from_ns;
        for edge in &self.edges {
            let span = edge.at_ns - last_ns;
            last_ns = edge.at_ns;
            if let Some(slot) = decide(&counts, self.depth).filter(|_| span > 0) {
                swept.slots[slot as usize] += span;
                if slot.is_device_wait() {
                    swept.wait_ns += span;
                    let cached = if slot.is_flush() { self.cached } else { 0 };
                    let all = u128::from(weight.saturating_add(cached).max(1));
                    let per_weight = (u128::from(span) << BLAME_BITS) / all;
                    meter += per_weight;
                    if slot.is_flush() {
                        swept.per_cached += per_weight;
                    }
                }
            }
            match edge.what {
                What::Lane(lane) => step(&mut counts[lane as usize], edge.begins),
                What::Ours(one) => move_weight(&mut weight, one, edge.begins),
                What::Claim(one, place) => {
                    move_weight(&mut weight, one, edge.begins);
                    let Some(claim) = self.claims.get_mut(place as usize) else { continue };
                    if edge.begins {
                        claim.mark = meter;
                    } else {
                        claim.blamed += (meter - claim.mark) * u128::from(one);
                    }
                }
            }
        }
        swept.claimed = self.claims.iter().map(|claim| claim.blamed).collect();
        swept
    }
}

// A span's begin lies before its end, so it is met first: neither goes below zero.
const fn step(count: &mut u32, begins: bool) {
    *count = if begins { *count + 1 } else { *count - 1 };
}

const fn move_weight(weight: &mut u64, one: u64, begins: bool) {
    *weight = if begins { *weight + one } else { *weight - one };
}

/// What we waited for, by what is under way. First match wins.
fn decide(counts: &[u32; LANES], depth: u32) -> Option<Slot> {
    let busy = |lane: Lane| counts[lane as usize] > 0;
    let flushing = busy(Lane::Flush);
    if busy(Lane::OwnDevice) {
        return Some(Slot::Device);
    }
    if busy(Lane::OwnFlush) || (busy(Lane::OwnWithFlush) && flushing) {
        return Some(Slot::Flush);
    }
    if busy(Lane::OwnFuaDevice) {
        return Some(Slot::Device);
    }
    if busy(Lane::OwnQueue) || busy(Lane::OwnWithFlush) {
        return Some(Slot::Queue);
    }
    if busy(Lane::FileDevice) {
        return Some(Slot::Device);
    }
    if busy(Lane::FileFlush) || (busy(Lane::FileWithFlush) && flushing) {
        return Some(Slot::Flush);
    }
    if busy(Lane::FileFuaDevice) {
        return Some(Slot::Device);
    }
    if busy(Lane::FileQueue) || busy(Lane::FileWithFlush) {
        return Some(Slot::Queue);
    }
    if busy(Lane::Held) {
        return Some(Slot::Throttle);
    }
    if busy(Lane::JournalDevice) {
        return Some(Slot::JournalDevice);
    }
    if busy(Lane::JournalFlush) || (busy(Lane::JournalWithFlush) && flushing) {
        return Some(Slot::JournalFlush);
    }
    if busy(Lane::JournalFuaDevice) {
        return Some(Slot::JournalDevice);
    }
    if busy(Lane::JournalQueue) || busy(Lane::JournalWithFlush) {
        return Some(Slot::JournalQueue);
    }
    if busy(Lane::Commit) {
        return Some(if flushing { Slot::JournalFlush } else { Slot::Journal });
    }
    if flushing {
        return Some(Slot::FlushPerhaps);
    }
    if depth > 0 && counts[Lane::Any as usize] >= depth {
        return Some(Slot::QueueFull);
    }
    busy(Lane::HeldPerhaps).then_some(Slot::ThrottlePerhaps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn swept(spans: &[(Lane, u64, u64)]) -> Vec<(Slot, u64)> {
        let mut timeline = Timeline::new(100, 200, 2, 0);
        spans.iter().for_each(|(lane, from, until)| timeline.add(*lane, *from, *until));
        let swept = timeline.sweep();
        let all = [
            Slot::Device,
            Slot::Queue,
            Slot::Flush,
            Slot::Throttle,
            Slot::JournalDevice,
            Slot::JournalQueue,
            Slot::JournalFlush,
            Slot::Journal,
            Slot::FlushPerhaps,
            Slot::QueueFull,
            Slot::ThrottlePerhaps,
        ];
        all.into_iter().map(|slot| (slot, swept.slots[slot as usize])).filter(|(_, span)| *span > 0).collect()
    }

    #[test]
    fn spans_are_cut_to_the_window() {
        assert_eq!(swept(&[(Lane::OwnDevice, 0, 130)]), [(Slot::Device, 30)]);
        assert_eq!(swept(&[(Lane::OwnDevice, 170, u64::MAX)]), [(Slot::Device, 30)]);
        assert_eq!(swept(&[(Lane::OwnDevice, 0, 100), (Lane::OwnQueue, 200, 300)]), []);
        assert_eq!(swept(&[(Lane::OwnDevice, 150, 140)]), [], "ends before it begins");
    }

    #[test]
    fn each_instant_is_counted_once_and_the_first_match_wins() {
        // One after the other from the strongest to the weakest, each beginning with the window.
        let spans = [
            (Lane::OwnDevice, 110, Slot::Device),
            (Lane::OwnFlush, 112, Slot::Flush),
            (Lane::OwnQueue, 115, Slot::Queue),
            (Lane::FileDevice, 120, Slot::Device),
            (Lane::FileFlush, 123, Slot::Flush),
            (Lane::FileQueue, 130, Slot::Queue),
            (Lane::Held, 140, Slot::Throttle),
            (Lane::JournalDevice, 150, Slot::JournalDevice),
            (Lane::JournalFlush, 155, Slot::JournalFlush),
            (Lane::JournalQueue, 160, Slot::JournalQueue),
            (Lane::Commit, 170, Slot::Journal),
            (Lane::HeldPerhaps, 190, Slot::ThrottlePerhaps),
        ];
        let mut timeline = Timeline::new(100, 200, 0, 0);
        spans.iter().for_each(|(lane, until, _)| timeline.add(*lane, 100, *until));
        let slots = timeline.sweep().slots;
        let mut expected = [0; SLOTS];
        let mut last = 100;
        for (_, until, slot) in spans {
            expected[slot as usize] += until - last;
            last = until;
        }
        assert_eq!(slots, expected);
    }

    #[test]
    fn a_request_behind_a_flush_waits_for_the_flush_while_there_is_one() {
        let behind = (Lane::OwnWithFlush, 100, 160);
        assert_eq!(swept(&[behind]), [(Slot::Queue, 60)]);
        assert_eq!(swept(&[behind, (Lane::Flush, 110, 150)]), [(Slot::Queue, 20), (Slot::Flush, 40)]);
        assert_eq!(
            swept(&[(Lane::OwnQueue, 100, 160), (Lane::Flush, 100, 160)]),
            [(Slot::Queue, 60)],
            "one that needs no flush does not wait for one"
        );
        let journal = (Lane::JournalWithFlush, 100, 160);
        assert_eq!(
            swept(&[journal, (Lane::Flush, 110, 150)]),
            [(Slot::JournalQueue, 20), (Slot::JournalFlush, 40)]
        );
    }

    #[test]
    fn a_flush_behind_the_data_is_a_flush_too() {
        for (with_flush, on_device, expected) in [
            (Lane::OwnWithFlush, Lane::OwnFuaDevice, [Slot::Device, Slot::Flush]),
            (Lane::FileWithFlush, Lane::FileFuaDevice, [Slot::Device, Slot::Flush]),
            (Lane::JournalWithFlush, Lane::JournalFuaDevice, [Slot::JournalDevice, Slot::JournalFlush]),
        ] {
            let spans = [(with_flush, 100, 160), (on_device, 100, 160), (Lane::Flush, 110, 150)];
            assert_eq!(swept(&spans), [(expected[0], 20), (expected[1], 40)]);
            let plain = (Lane::OwnDevice, 100, 200);
            assert_eq!(swept(&[spans[0], spans[1], spans[2], plain]), [(Slot::Device, 100)]);
        }
    }

    #[test]
    fn a_flush_within_a_commit_is_the_journals() {
        assert_eq!(
            swept(&[(Lane::Commit, 100, 150), (Lane::Flush, 120, 170)]),
            [(Slot::JournalFlush, 30), (Slot::Journal, 20), (Slot::FlushPerhaps, 20)]
        );
    }

    #[test]
    fn a_full_device_is_a_queue_only_when_its_depth_is_known_and_nothing_stronger_is_seen() {
        let two = [(Lane::Any, 100, 150), (Lane::Any, 120, 160)];
        assert_eq!(swept(&two), [(Slot::QueueFull, 30)]);
        assert_eq!(swept(&two[..1]), []);
        let mut unknown = Timeline::new(100, 200, 0, 0);
        two.iter().for_each(|(lane, from, until)| unknown.add(*lane, *from, *until));
        assert_eq!(unknown.sweep().slots, [0; SLOTS]);
    }

    #[test]
    fn the_time_of_an_instant_is_shared_by_weight() {
        let mut timeline = Timeline::new(100, 200, 0, 0);
        timeline.add(Lane::OwnDevice, 100, 200);
        timeline.add_ours(10, 100, 200);
        let heavy = timeline.claim(30, 100, 150);
        let light = timeline.claim(10, 100, 200);
        let outside = timeline.claim(10, 0, 100);
        let swept = timeline.sweep();
        let ns = |place: usize| (swept.claimed[place] >> BLAME_BITS) as u64;
        // 50 ns × 30/50, and 50 × 10/50 + 50 × 10/20.
        assert_eq!((ns(heavy), ns(light), ns(outside)), (30, 35, 0));
        assert_eq!(swept.wait_ns, 100);
    }

    #[test]
    fn only_waiting_for_disks_is_blamed_on_anybody() {
        for (lane, waits) in
            [(Lane::OwnQueue, 100), (Lane::JournalQueue, 100), (Lane::Held, 0), (Lane::Commit, 0)]
        {
            let mut timeline = Timeline::new(100, 200, 0, 0);
            timeline.add(lane, 100, 200);
            let place = timeline.claim(1, 100, 200);
            let swept = timeline.sweep();
            assert_eq!((swept.wait_ns, swept.claimed[place] >> BLAME_BITS), (waits, u128::from(waits)));
        }
    }

    #[test]
    fn what_lies_in_the_cache_shares_in_flushes_alone() {
        let mut timeline = Timeline::new(100, 200, 0, 30);
        timeline.add(Lane::OwnDevice, 100, 140);
        timeline.add(Lane::OwnFlush, 140, 200);
        timeline.add_ours(10, 100, 200);
        let swept = timeline.sweep();
        // 60 ns of flush, 30 of the weight of 40 cached.
        assert_eq!((swept.per_cached * 30) >> BLAME_BITS, 45);
    }
}
