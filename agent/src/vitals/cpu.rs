//! Who uses the CPUs: two looks at `/proc/*/stat` a second apart. Only while etcd waits for a CPU, as it costs some ten
//! microseconds for each process of the node.
//!
//! A process that ends between two looks is seen in its parent, once that has waited for it: builds and scripts consist of such. Times
//! are the kernel's own exact ones, rounded to ticks of 10 ms.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::clock::TICKS_PER_SECOND;
use crate::discover::ProcFs;

/// Processes that a look takes in, the newest first, and how long it may last.
const PROCESSES: usize = 8_192;
const LASTS_AT_MOST: Duration = Duration::from_millis(100);

/// Looks further apart than this are not compared.
const APART_NS: u64 = 8_000_000_000;

/// So many looks are taken as often as they are asked for; while the shortage goes on, further ones this far apart. However long a look
/// takes, it has no more than a part of the time.
const OFTEN: u32 = 10;
const SELDOM_NS: u64 = 1_500_000_000;
const SHARE_OF_LOOKING: u64 = 50;

/// Most users that are told, and the least that one uses: a twentieth of a CPU.
const USERS: usize = 5;
const LEAST_NS: u64 = 50_000_000;

const TICK_NS: u64 = 1_000_000_000 / TICKS_PER_SECOND;

/// What `/proc/PID/stat` says here.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stat {
    comm: String,
    parent: u32,
    own_ticks: u64,
    /// Of children that it has waited for.
    children_ticks: u64,
    threads: u32,
    start_ticks: u64,
}

fn parse(text: &str) -> Option<Stat> {
    // The name may hold blanks and parentheses: it ends at the last one.
    let open = text.find('(')?;
    let close = text.rfind(')').filter(|close| *close > open)?;
    let fields: Vec<&str> = text[close + 1..].split_ascii_whitespace().take(20).collect();
    // The state comes first, as field 3 of proc(5).
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    // Times of children may be negative on old kernels that subtract.
    let ticks = |field: usize| Some(number(field)?.saturating_add(number(field + 1)?));
    Some(Stat {
        comm: text[open + 1..close].to_owned(),
        parent: u32::try_from(number(4)?).ok()?,
        own_ticks: ticks(14)?,
        children_ticks: ticks(16).unwrap_or(0),
        threads: u32::try_from(number(20)?).ok()?,
        start_ticks: number(22)?,
    })
}

/// Somebody who used CPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The process.
    pub process_id: u32,
    /// Its name.
    pub comm: String,
    /// CPU time a second.
    pub on_cpu_ns: u64,
    /// Threads that it has.
    pub threads: u32,
}

#[derive(Debug, Default)]
struct Look {
    at_ns: u64,
    processes: HashMap<u32, Stat>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct CpuUsers {
    last: Option<Look>,
    users: Vec<User>,
    looks: u32,
    lasted_ns: u64,
}

impl CpuUsers {
    /// Looks, and compares with the last look; what that said stays when it is too early.
    pub fn look(&mut self, proc: &ProcFs, now_ns: u64) {
        let pause_ns = if self.looks < OFTEN { 0 } else { SELDOM_NS };
        let pause_ns = pause_ns.max(self.lasted_ns.saturating_mul(SHARE_OF_LOOKING));
        if self.last.as_ref().is_some_and(|last| now_ns.saturating_sub(last.at_ns) < pause_ns) {
            return;
        }
        let begin = Instant::now();
        self.take(proc, now_ns);
        self.looks = self.looks.saturating_add(1);
        self.lasted_ns = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
    }

    fn take(&mut self, proc: &ProcFs, now_ns: u64) {
        let look = Look { at_ns: now_ns, processes: list(proc) };
        let comparable = self.last.take().filter(|last| now_ns.saturating_sub(last.at_ns) <= APART_NS);
        self.users = comparable.map_or_else(Vec::new, |last| compare(&last, &look));
        self.last = Some(look);
    }

    /// Nobody needs it any more.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Who used CPUs between the last two looks, the worst first, but for one process.
    pub fn besides(&self, process_id: u32) -> impl Iterator<Item = &User> {
        self.users.iter().filter(move |user| user.process_id != process_id).take(USERS)
    }
}

fn list(proc: &ProcFs) -> HashMap<u32, Stat> {
    let mut pids = Vec::new();
    if proc.pids(&mut pids).is_err() {
        return HashMap::new();
    }
    // What has just begun is what has just changed.
    pids.sort_unstable_by_key(|pid| std::cmp::Reverse(*pid));
    let begin = Instant::now();
    let mut found = HashMap::with_capacity(pids.len().min(PROCESSES));
    for pid in pids.into_iter().take(PROCESSES) {
        if begin.elapsed() > LASTS_AT_MOST {
            break;
        }
        if let Ok(bytes) = proc.read(pid, "stat")
            && let Some(stat) = parse(&String::from_utf8_lossy(&bytes))
        {
            found.insert(pid, stat);
        }
    }
    found
}

/// Of each process what it used itself, and children that ended meanwhile. All of those it did not know before belong to the time
/// between; of those it knew only what they used since, which nobody can tell apart from what they used before but by what is
/// known of them.
fn compare(before: &Look, now: &Look) -> Vec<User> {
    let same = |pid: &u32, stat: &Stat| {
        let known = before.processes.get(pid);
        known.filter(|known| known.start_ticks == stat.start_ticks)
    };
    let mut of_ended: HashMap<u32, u64> = HashMap::new();
    for (pid, stat) in &before.processes {
        let lives = now.processes.get(pid).is_some_and(|found| found.start_ticks == stat.start_ticks);
        if !lives {
            *of_ended.entry(stat.parent).or_default() += stat.own_ticks + stat.children_ticks;
        }
    }
    let between_ns = u128::from(now.at_ns.saturating_sub(before.at_ns).max(1));
    let newest = before.processes.values().map(|stat| stat.start_ticks).max().unwrap_or(0);
    let used = |(pid, stat): (&u32, &Stat)| {
        let ticks = match same(pid, stat) {
            Some(known) => {
                let children = stat.children_ticks.saturating_sub(known.children_ticks);
                let earlier = of_ended.get(pid).copied().unwrap_or(0);
                stat.own_ticks.saturating_sub(known.own_ticks) + children.saturating_sub(earlier)
            }
            // One that began meanwhile; an older one was left out by the look before.
            None if stat.start_ticks >= newest => stat.own_ticks + stat.children_ticks,
            None => 0,
        };
        let a_second = u128::from(ticks * TICK_NS) * 1_000_000_000 / between_ns;
        let on_cpu_ns = u64::try_from(a_second).unwrap_or(u64::MAX);
        let user = || User { process_id: *pid, comm: stat.comm.clone(), on_cpu_ns, threads: stat.threads };
        (on_cpu_ns >= LEAST_NS).then(user)
    };
    let mut users: Vec<User> = now.processes.iter().filter_map(used).collect();
    users.sort_by_key(|user| (std::cmp::Reverse(user.on_cpu_ns), user.process_id));
    // One more than is told: whoever asks may be among them.
    users.truncate(USERS + 1);
    users
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    struct Recorded {
        root: tempfile::TempDir,
        users: CpuUsers,
    }

    impl Recorded {
        fn new() -> Self {
            Self { root: tempfile::tempdir().expect("writable"), users: CpuUsers::default() }
        }

        fn set(&self, pid: u32, parent: u32, own: u64, children: u64, start: u64) {
            let directory = self.root.path().join(pid.to_string());
            std::fs::create_dir_all(&directory).expect("made");
            let text = format!(
                "{pid} (a (b) c) R {parent} 1 1 0 -1 4194304 0 0 0 0 {own} 0 {children} 0 20 0 3 0 {start} 0 0"
            );
            std::fs::write(directory.join("stat"), text).expect("written");
        }

        fn end(&self, pid: u32) {
            std::fs::remove_dir_all(self.root.path().join(pid.to_string())).expect("removed");
        }

        fn look(&mut self, at_ns: u64) -> Vec<(u32, u64)> {
            self.users.take(&ProcFs::new(self.root.path()), at_ns);
            self.users.besides(7).map(|user| (user.process_id, user.on_cpu_ns)).collect()
        }
    }

    #[test]
    fn a_line_is_read_field_by_field() {
        let text = "77 (x) y) S 5 77 77 0 -1 4194560 1 2 3 4 10 20 300 400 20 0 9 0 12345 1 2";
        let expected = Stat {
            comm: "x) y".to_owned(),
            parent: 5,
            own_ticks: 30,
            children_ticks: 700,
            threads: 9,
            start_ticks: 12_345,
        };
        assert_eq!(parse(text), Some(expected));
        for garbage in
            ["", "1", "1 (x", "1 )x( S", "1 (x) S 1 2 3", "1 (x) S a b c d e f g h i j k l m n o p q r"]
        {
            assert_eq!(parse(garbage), None, "{garbage:?}");
        }
    }

    #[test]
    fn the_worst_come_first_and_one_is_left_out() {
        let mut recorded = Recorded::new();
        for (pid, own) in [(7, 100), (20, 100), (21, 100), (22, 100)] {
            recorded.set(pid, 1, own, 0, 5);
        }
        assert_eq!(recorded.look(S), []);
        for (pid, own) in [(7, 190), (20, 140), (21, 199), (22, 104)] {
            recorded.set(pid, 1, own, 0, 5);
        }
        assert_eq!(recorded.look(2 * S), [(21, 990_000_000), (20, 400_000_000)]);
        assert_eq!(recorded.users.besides(7).next().map(|user| user.comm.as_str()), Some("a (b) c"));
    }

    #[test]
    fn no_more_than_a_few_are_told() {
        let mut recorded = Recorded::new();
        (10..30).for_each(|pid| recorded.set(pid, 1, 0, 0, 5));
        recorded.look(S);
        (10..30).for_each(|pid| recorded.set(pid, 1, u64::from(pid), 0, 5));
        assert_eq!(recorded.look(2 * S).iter().map(|user| user.0).collect::<Vec<_>>(), [29, 28, 27, 26, 25]);
    }

    #[test]
    fn what_ended_children_used_counts_for_their_parent_once() {
        let mut recorded = Recorded::new();
        recorded.set(20, 1, 0, 1_000, 5);
        recorded.set(30, 20, 300, 0, 6);
        recorded.look(S);
        // The child used 20 more, and one that nobody saw used 50.
        recorded.end(30);
        recorded.set(20, 1, 1, 1_370, 5);
        assert_eq!(recorded.look(2 * S), [(20, 710_000_000)]);
    }

    #[test]
    fn a_process_that_began_meanwhile_counts_in_full_and_one_that_was_left_out_does_not() {
        let mut recorded = Recorded::new();
        recorded.set(20, 1, 0, 0, 100);
        recorded.look(S);
        recorded.set(30, 1, 80, 0, 150);
        recorded.set(31, 1, 5_000, 0, 50);
        assert_eq!(recorded.look(2 * S), [(30, 800_000_000)]);
        recorded.set(20, 1, 90, 0, 300);
        assert_eq!(recorded.look(4 * S), [(20, 450_000_000)], "another process of that id, in two seconds");
    }

    #[test]
    fn looks_that_are_far_apart_are_not_compared() {
        let mut recorded = Recorded::new();
        recorded.set(20, 1, 0, 0, 5);
        recorded.look(S);
        recorded.set(20, 1, 400, 0, 5);
        assert_eq!(recorded.look(S + APART_NS + 1), []);
        recorded.users.forget();
        assert_eq!(recorded.look(S + APART_NS + 2), []);
    }

    #[test]
    fn while_it_goes_on_looks_become_rarer_and_what_was_said_stays() {
        let mut recorded = Recorded::new();
        let proc = ProcFs::new(recorded.root.path());
        let mut users = CpuUsers::default();
        let mut taken = Vec::new();
        for second in 1..=20_u64 {
            recorded.set(20, 1, second * 50, 0, 5);
            users.look(&proc, second * S);
            if users.last.as_ref().is_some_and(|last| last.at_ns == second * S) {
                taken.push(second);
            }
            // However slow this machine is.
            users.lasted_ns = 0;
            let told: Vec<u64> = users.besides(7).map(|user| user.on_cpu_ns).collect();
            assert_eq!(told, if second == 1 { vec![] } else { vec![500_000_000] }, "{second}");
        }
        assert_eq!(taken, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20]);
        users.lasted_ns = 100_000_000;
        users.looks = 0;
        users.look(&proc, 24 * S);
        assert_eq!(users.last.map(|last| last.at_ns), Some(20 * S), "a look takes long here");
        recorded.users.forget();
    }

    #[test]
    fn processes_of_this_node_are_read() {
        let found = list(&ProcFs::new("/proc"));
        let own = found.get(&std::process::id()).expect("this one");
        assert!(own.threads > 0 && own.start_ticks > 0);
    }
}
