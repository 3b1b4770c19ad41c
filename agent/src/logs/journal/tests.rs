//! On files that systemd 252 wrote: in compact form, and in the one of before with a rotation in between. A service `etcd.service`
//! wrote to them among others, over its standard error and by itself.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::*;

const COMPACT: &[u8] = include_bytes!("testdata/compact.journal.zst");
const ARCHIVED: &[u8] = include_bytes!("testdata/regular-archived.journal.zst");
const REFUSED: &[u8] = include_bytes!("testdata/refused.journal.zst");
const REGULAR: &[u8] = include_bytes!("testdata/regular.journal.zst");

/// Entries in the compact one.
const ENTRIES: u64 = 60;

/// Where headers hold the state, the boot id and the count of entries.
const STATE_AT: usize = 16;
const BOOT_AT: usize = 56;
const ENTRIES_AT: usize = 152;

/// Of the service, in the order in which it wrote; what it sent by itself comes in any.
const FIRST: [&str; 11] = [
    "first 0", "first 1", "first 2", "first 3", "first 4", "long", "after", "native", "clock", "twice",
    "twice",
];
const SECOND: [&str; 4] = ["second 0", "second 1", "second 2", "panic"];

fn unpacked(packed: &[u8]) -> Vec<u8> {
    zstd::stream::decode_all(packed).unwrap()
}

struct Stand {
    root: tempfile::TempDir,
    process: ProcessId,
    now: Reading,
}

impl Stand {
    /// A place in which `system.journal` holds this.
    fn new(bytes: &[u8]) -> Self {
        let mut boot_id = [0; 16];
        boot_id.copy_from_slice(&bytes[BOOT_AT..BOOT_AT + 16]);
        let root = tempfile::tempdir().unwrap();
        let stand = Self {
            root,
            process: ProcessId { boot_id, pid: 1, start_ticks: 1 },
            now: Reading { mono_ns: 0, wall_ns: 0 },
        };
        for name in ["log", "run"] {
            fs::create_dir_all(stand.machine(name)).unwrap();
        }
        fs::write(stand.machine("log").join("system.journal"), bytes).unwrap();
        stand
    }

    fn machine(&self, name: &str) -> PathBuf {
        self.root.path().join(name).join("0123456789abcdef0123456789abcdef")
    }

    fn file(&self) -> File {
        File::options().read(true).write(true).open(self.machine("log").join("system.journal")).unwrap()
    }

    fn journal(&self) -> Journal {
        let roots = vec![self.root.path().join("log"), self.root.path().join("run")];
        Journal::new(roots, Owner::Unit("etcd.service".to_owned()), self.process, 0)
    }

    /// A poll a second later than the last one: what each line is, and whether it is old.
    fn poll(&mut self, journal: &mut Journal) -> Vec<String> {
        self.now.mono_ns += LIST_NS;
        let mut lines = Vec::new();
        journal.poll(self.process.pid, self.now, &mut Budget { bytes: 4 << 20 }, &mut |line| {
            lines.push(brief(line));
        });
        lines
    }
}

/// The message with its number, `old` before it, and the level behind it.
fn brief(line: Line<'_>) -> String {
    assert!(line.wall_ns > 1_700_000_000 * SECOND_NS && line.pid > 1, "{line:?}");
    let old = if line.old { "old " } else { "" };
    let Ok(entry) = serde_json::from_slice::<serde_json::Value>(line.text) else {
        let text = String::from_utf8_lossy(line.text);
        assert!(!text.ends_with('\n'));
        let word =
            if text.starts_with("the clock difference") { "clock" } else { &text[..5.min(text.len())] };
        return format!("{old}{word}{}", line.level.map(|level| format!(" {level:?}")).unwrap_or_default());
    };
    let number = entry["number"].as_u64().map(|number| format!(" {number}")).unwrap_or_default();
    let level = line.level.map(|level| format!(" {level:?}")).unwrap_or_default();
    format!("{old}{}{number}{level}", entry["msg"].as_str().unwrap())
}

fn sorted(lines: Vec<String>) -> Vec<String> {
    let mut lines: Vec<String> = lines
        .into_iter()
        .map(|line| {
            line.trim_start_matches("old ").trim_end_matches(" Info").trim_end_matches(" Warn").to_owned()
        })
        .collect();
    lines.sort();
    lines
}

fn expected(parts: &[&[&str]]) -> Vec<String> {
    sorted(parts.concat().into_iter().map(str::to_owned).collect())
}

#[test]
fn both_forms_are_read_and_only_the_service() {
    let mut compact = Stand::new(&unpacked(COMPACT));
    let mut journal = compact.journal();
    let lines = compact.poll(&mut journal);
    assert!(lines.iter().all(|line| line.starts_with("old ")), "{lines:?}");
    assert!(lines.contains(&"old native Info".to_owned()), "{lines:?}");
    assert!(lines.contains(&"old clock Warn".to_owned()), "{lines:?}");
    assert!(lines.contains(&"old first 3".to_owned()), "a stream's priority says nothing: {lines:?}");
    assert_eq!(sorted(lines), expected(&[&FIRST, &SECOND]));
    let skipped = Skipped { too_long: 2, ..Skipped::default() };
    assert_eq!(journal.take_skipped(), skipped, "one was cut by journald, one came whole");
    assert_eq!(compact.poll(&mut journal), [""; 0]);

    let mut regular = Stand::new(&unpacked(ARCHIVED));
    let mut journal = regular.journal();
    assert_eq!(sorted(regular.poll(&mut journal)), expected(&[&FIRST]));
    assert_eq!(journal.take_skipped(), skipped);
}

#[test]
fn what_journald_refused_is_counted() {
    let mut stand = Stand::new(&unpacked(REFUSED));
    let mut journal = stand.journal();
    let taken = stand.poll(&mut journal).len() as u64;
    let skipped = journal.take_skipped();
    assert_eq!((taken + skipped.refused, skipped.refused), (501, 425));
}

#[test]
fn one_process_is_told_from_the_others() {
    let mut stand = Stand::new(&unpacked(COMPACT));
    let mut pids = Vec::new();
    stand.journal().poll(1, stand.now, &mut Budget { bytes: 4 << 20 }, &mut |line| {
        if line.text.ends_with(b"\"msg\":\"twice\"}") {
            pids.push(line.pid);
        }
    });
    assert!(pids.len() == 2 && pids[0] == pids[1], "{pids:?}");
    stand.process.pid = pids[0];
    let roots = vec![stand.root.path().join("log")];
    let mut journal = Journal::new(roots, Owner::Process(pids[0]), stand.process, 0);
    assert_eq!(sorted(stand.poll(&mut journal)), expected(&[&FIRST]));
    stand.process.boot_id = [7; 16];
    let mut other = stand.journal();
    assert_eq!(stand.poll(&mut other), [""; 0], "entries of another machine or boot");
}

#[test]
fn what_comes_later_is_new_and_comes_once() {
    let bytes = unpacked(COMPACT);
    let mut stand = Stand::new(&bytes);
    let set = |stand: &Stand, entries: u64| {
        stand.file().write_all_at(&entries.to_le_bytes(), ENTRIES_AT as u64).unwrap();
    };
    set(&stand, 45);
    let mut journal = stand.journal();
    let mut lines = stand.poll(&mut journal);
    assert!(lines.iter().all(|line| line.starts_with("old ")) && !lines.is_empty(), "{lines:?}");
    for entries in 46..=ENTRIES {
        set(&stand, entries);
        let new = stand.poll(&mut journal);
        assert!(new.len() <= 1 && !new.iter().any(|line| line.starts_with("old ")), "{new:?}");
        lines.extend(new);
    }
    assert_eq!(sorted(lines), expected(&[&FIRST, &SECOND]));
}

#[test]
fn an_archived_file_is_read_to_its_end_and_the_next_one_from_its_begin() {
    let mut bytes = unpacked(ARCHIVED);
    let entries = bytes[ENTRIES_AT];
    (bytes[STATE_AT], bytes[ENTRIES_AT]) = (1, entries - 4);
    let mut stand = Stand::new(&bytes);
    let mut journal = stand.journal();
    let mut lines = stand.poll(&mut journal);
    let before = lines.len();
    // Its last entries and the rotation between two looks.
    stand.file().write_all_at(&[entries], ENTRIES_AT as u64).unwrap();
    let machine = stand.machine("log");
    fs::rename(machine.join("system.journal"), machine.join("system@1-2-3.journal")).unwrap();
    fs::write(machine.join("system.journal"), unpacked(REGULAR)).unwrap();
    lines.extend(stand.poll(&mut journal));
    assert!(lines[before..].iter().all(|line| !line.starts_with("old ")), "{lines:?}");
    assert!(lines.len() > before + 4, "{lines:?}");
    assert_eq!(sorted(lines), expected(&[&FIRST, &SECOND]));
    assert_eq!(journal.files.open.len(), 1, "the archived one is closed");
    fs::remove_file(machine.join("system.journal")).unwrap();
    assert_eq!(stand.poll(&mut journal), [""; 0]);
    assert_eq!(journal.files.open.len(), 0);
}

#[test]
fn what_journald_copies_from_run_to_var_comes_once() {
    let bytes = unpacked(COMPACT);
    let mut stand = Stand::new(&bytes);
    let (log, run) =
        (stand.machine("log").join("system.journal"), stand.machine("run").join("system.journal"));
    fs::rename(&log, &run).unwrap();
    let mut journal = stand.journal();
    assert_eq!(stand.poll(&mut journal).len(), FIRST.len() + SECOND.len());
    fs::write(&log, &bytes).unwrap();
    fs::remove_file(&run).unwrap();
    assert_eq!(stand.poll(&mut journal), [""; 0]);
    assert_eq!(journal.files.open.len(), 1);
}

#[test]
fn a_poll_is_limited_and_a_backlog_is_jumped_over_and_estimated() {
    let bytes = unpacked(COMPACT);
    let mut stand = Stand::new(&bytes);
    let mut journal = stand.journal();
    journal.limits = Limits { look_back: 5, backlog: 100, entries: 7 };
    let mut polls = Vec::new();
    while journal.files.open[0].index < ENTRIES {
        polls.push(stand.poll(&mut journal).len());
        assert!(journal.files.open[0].index <= 7 * polls.len() as u64);
    }
    assert_eq!(polls.iter().sum::<usize>(), FIRST.len() + SECOND.len(), "{polls:?}");
    assert_eq!(journal.take_skipped().backlog, 0);

    let mut journal = stand.journal();
    let mut budget = Budget { bytes: 1 };
    journal.poll(1, stand.now, &mut budget, &mut |_| {});
    assert_eq!((journal.files.open[0].index, budget.bytes), (1, 0), "bytes are limited too");
    journal.limits = Limits { look_back: 5, backlog: 20, entries: 100 };
    (journal.read, journal.found) = (100, 50);
    assert_eq!(stand.poll(&mut journal).len(), 4, "journald has the last word");
    assert_eq!(journal.take_skipped().backlog, (ENTRIES - 1 - 5) / 2);
}

#[test]
fn a_process_has_its_own_entries_only_and_not_all_of_the_past() {
    let bytes = unpacked(COMPACT);
    let mut stand = Stand::new(&bytes);
    let mut at = Vec::new();
    stand.journal().poll(1, stand.now, &mut Budget { bytes: 4 << 20 }, &mut |line| {
        if brief(line) == "old second 0" {
            at.push(line.wall_ns);
        }
    });
    // A second of slack is taken off.
    let roots = vec![stand.root.path().join("log")];
    let owner = Owner::Unit("etcd.service".to_owned());
    let mut journal = Journal::new(roots, owner, stand.process, at[0] + SECOND_NS);
    assert_eq!(sorted(stand.poll(&mut journal)), expected(&[&SECOND]));
}

#[test]
fn what_is_xz_is_counted() {
    let mut bytes = unpacked(COMPACT);
    let head = b"\x01\x04\0\0\0\0\0\0";
    // The first one is the long line: the other is too long, and not looked into.
    let at = memchr::memmem::find_iter(&bytes, head).find(|at| at % 8 == 0).unwrap();
    bytes[at + 1] = 1;
    let mut stand = Stand::new(&bytes);
    let mut journal = stand.journal();
    let lines = stand.poll(&mut journal);
    assert!(!sorted(lines).contains(&"long".to_owned()));
    assert_eq!(journal.take_skipped().unreadable, 1);
}

#[test]
fn a_file_that_makes_no_sense_is_given_up_and_counted_once() {
    let good = unpacked(COMPACT);
    let damaged = |at: usize, with: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        bytes
    };
    for (what, bytes) in [
        ("no journal", vec![0; 8192]),
        ("empty", Vec::new()),
        ("features of the future", damaged(13, &[1])),
        ("a loop", damaged(176, &16_u64.to_le_bytes())),
        ("more entries than there are arrays for", damaged(ENTRIES_AT, &[0xff; 6])),
        ("a first array beyond the end", damaged(176, &[0xff; 8])),
        ("cut", good[..5000].to_vec()),
    ] {
        let mut stand = Stand::new(&good);
        fs::write(stand.machine("log").join("system.journal"), &bytes).unwrap();
        let mut journal = stand.journal();
        for _ in 0..3 * TRIES {
            stand.poll(&mut journal);
        }
        let unreadable = journal.take_skipped().unreadable;
        assert!((1..=BACKLOG_LIMIT).contains(&unreadable), "{what}: {unreadable}");
        for _ in 0..3 * TRIES {
            stand.poll(&mut journal);
        }
        assert_eq!((journal.take_skipped(), journal.files.open.len()), (Skipped::default(), 0), "{what}");
        // It has a successor, as after a restart of journald.
        let machine = stand.machine("log");
        fs::rename(machine.join("system.journal"), machine.join("system@1.journal~")).unwrap();
        fs::write(machine.join("system.journal"), &good).unwrap();
        assert_eq!(stand.poll(&mut journal).len(), FIRST.len() + SECOND.len(), "{what}");
    }
}

#[test]
fn any_bytes_may_be_flipped_at_any_time() {
    for good in [unpacked(COMPACT), unpacked(ARCHIVED)] {
        let mut stand = Stand::new(&good);
        let file = stand.file();
        // Objects lie behind the hash tables, which nothing reads.
        let begin = memchr::memmem::find(&good, b"MESSAGE=").unwrap() - 80;
        let end = good.iter().rposition(|byte| *byte != 0).unwrap();
        let (mut harmed, mut lines) = (0, 0);
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for round in 0..500 {
            let mut journal = stand.journal();
            journal.limits.entries = 20;
            let mut flipped = Vec::new();
            for _ in 0..8 {
                for _ in 0..1 + random.below(4) {
                    let at = match random.below(4) {
                        0 => random.below(208),
                        _ => begin + random.below(end - begin),
                    };
                    let byte =
                        if random.below(2) == 0 { random.below(256) as u8 } else { 1 << random.below(8) };
                    file.write_all_at(&[good[at] ^ byte], at as u64).unwrap();
                    flipped.push(at);
                }
                lines += stand.poll_any(&mut journal);
            }
            harmed += u64::from(journal.take_skipped().unreadable > 0);
            for at in flipped {
                file.write_all_at(&good[at..=at], at as u64).unwrap();
            }
            if round % 100 == 0 {
                file.set_len(begin as u64 + random.below(end - begin) as u64).unwrap();
                let mut journal = stand.journal();
                for _ in 0..8 {
                    stand.poll_any(&mut journal);
                }
                file.write_all_at(&good, 0).unwrap();
            }
        }
        assert!(harmed > 50 && lines > 500, "{harmed} {lines}");
    }
}

impl Stand {
    /// A poll whose lines may be anything.
    fn poll_any(&mut self, journal: &mut Journal) -> usize {
        self.now.mono_ns += LIST_NS;
        let mut lines = 0;
        journal.poll(self.process.pid, self.now, &mut Budget { bytes: 4 << 20 }, &mut |line| {
            assert!(line.text.len() <= LINE_LIMIT);
            lines += 1;
        });
        lines
    }
}

/// The same with every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

#[test]
fn without_files_there_is_a_reason() {
    let root = tempfile::tempdir().unwrap();
    let roots = [root.path().join("log"), root.path().join("run")];
    let missing = check(&roots).unwrap_err();
    assert!(missing.reason.starts_with("journald has no files in /"), "{missing:?}");
    let remote: &Path = &roots[0].join("remote");
    fs::create_dir_all(remote).unwrap();
    fs::write(remote.join("system.journal"), "").unwrap();
    assert!(check(&roots).is_err(), "of another machine");
    fs::write(&roots[1], "no directory").unwrap();
    let missing = check(&roots).unwrap_err();
    assert!(missing.remedy.contains("systemd-journal"), "{missing:?}");
    let namespaced = roots[0].join("0123456789abcdef0123456789abcdef.own");
    fs::create_dir_all(&namespaced).unwrap();
    fs::write(namespaced.join("user-1000.journal"), "").unwrap();
    assert!(check(&roots).is_ok());
}
