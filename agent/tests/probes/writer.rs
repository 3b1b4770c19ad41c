//! A process that writes and syncs as told: this test program itself, started again.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::fs::{FileExt as _, OpenOptionsExt as _},
    },
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use etcdmon_agent_ebpf::place::PLACES;

const DIRECTORY: &str = "ETCDMON_TEST_WRITER_DIRECTORY";

/// One order: `times` × (`bytes` written, then a sync) on a file; each word is a field of the line that carries it.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    pub how: &'static str,
    pub file: &'static str,
    pub times: u64,
    pub bytes: u64,
}

/// A running writer. Ends with its standard input.
pub struct Writer {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Writer {
    /// Starts one that works in `directory`.
    pub fn start(directory: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("a running program has a file"))
            .args(["--exact", "writer::serve", "--nocapture", "--test-threads=1"])
            .env(DIRECTORY, directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the writer");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let mut writer = Self { child, input, output };
        writer.wait_for("ready");
        writer
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Reads on to a line that ends with this word, and returns what comes before it.
    fn wait_for(&mut self, word: &str) -> String {
        let mut line = String::new();
        // The test harness of the child talks as well.
        while !line.trim_end().ends_with(word) {
            line.clear();
            assert_ne!(self.output.read_line(&mut line).expect("read"), 0, "the writer ended early");
        }
        line.trim_end().trim_end_matches(word).trim_end().to_owned()
    }

    /// Has an order carried out and waits for its end. Returns which sync failed, counted from 1; 0 if none did.
    pub fn carry_out(&mut self, order: Order) -> u64 {
        self.begin(order);
        self.finish()
    }

    /// Gives an order and does not wait for its end.
    pub fn begin(&mut self, order: Order) {
        let Order { how, file, times, bytes } = order;
        let input = self.input.as_mut().expect("open until dropped");
        writeln!(input, "{how} {file} {times} {bytes}").expect("the writer reads");
    }

    /// Waits for the end of the order that was given, and says what [`Self::carry_out`] does.
    pub fn finish(&mut self) -> u64 {
        self.wait_for("done").parse().expect("a number")
    }

    /// Has it end now, or as soon as the kernel lets it.
    pub fn kill(&mut self) {
        self.child.kill().expect("not waited for yet");
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.wait();
    }
}

/// The child's side. Without the variable it is a test that has nothing to do.
#[test]
fn serve() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    std::env::set_current_dir(directory).expect("the directory is there");
    println!("\nready");
    for line in std::io::stdin().lines() {
        let line = line.expect("read");
        let words: Vec<&str> = line.split(' ').collect();
        let [how, file, times, bytes] = words[..] else { panic!("order {line:?}") };
        let number = |word: &str| word.parse::<u64>().expect("a number");
        let failed = carry_out(how, Path::new(file), number(times), number(bytes));
        println!("\n{failed} done");
    }
}

/// What O_DIRECT wants.
#[repr(align(4096))]
struct Aligned([u8; 4096]);

/// Returns which sync or direct write failed, counted from 1; 0 if none did.
fn carry_out(how: &str, path: &Path, times: u64, bytes: u64) -> u64 {
    let data = vec![b'x'; bytes as usize];
    let open = || OpenOptions::new().append(true).create(true).open(path).expect("open");
    match how {
        "write+fdatasync" => {
            let mut file = open();
            for _ in 0..times {
                file.write_all(&data).expect("write");
                file.sync_data().expect("fdatasync");
            }
        }
        "write+fsync" => {
            let mut file = open();
            for _ in 0..times {
                file.write_all(&data).expect("write");
                file.sync_all().expect("fsync");
            }
        }
        "write" => {
            let mut file = open();
            (0..times).for_each(|_| file.write_all(&data).expect("write"));
        }
        "writev" => {
            let mut file = open();
            let half = data.len() / 2;
            for _ in 0..times {
                let parts = [std::io::IoSlice::new(&data[..half]), std::io::IoSlice::new(&data[half..])];
                assert_eq!(file.write_vectored(&parts).expect("writev"), data.len());
            }
        }
        "pwrite+fdatasync" => {
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(path).expect("open");
            for at in 0..times {
                file.write_all_at(&data, (at % 8) * bytes).expect("pwrite64");
                file.sync_data().expect("fdatasync");
            }
        }
        "fsync" => {
            let file = File::open(path).expect("open");
            (0..times).for_each(|_| file.sync_all().expect("fsync"));
        }
        "range" => {
            let file = open();
            for _ in 0..times {
                // SAFETY: a descriptor of ours and numbers.
                let result = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, 2) };
                assert_eq!(result, 0, "sync_file_range");
            }
        }
        "refused" => {
            for _ in 0..times {
                // SAFETY: a descriptor that is not open, and one that can't be synced; both are refused.
                assert_eq!(unsafe { libc::fsync(9_999) } + unsafe { libc::fdatasync(1) }, -2);
            }
        }
        "direct" | "direct-read" => {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .custom_flags(libc::O_DIRECT)
                .open(path)
                .expect("open");
            let mut aligned = Aligned([b'y'; 4096]);
            for at in 0..times {
                // A place of its own each time, so that no two make one request.
                let offset = at % 1_000 * 2 * 4_096;
                let part = &mut aligned.0[..bytes as usize];
                if how == "direct" {
                    if file.write_all_at(part, offset).is_err() {
                        return at + 1;
                    }
                } else {
                    file.read_exact_at(part, offset).expect("pread64");
                }
            }
        }
        "rename" => std::fs::rename(path, path.with_file_name("0000000000000001-0000000000000001.wal"))
            .expect("rename"),
        "threads" => {
            std::thread::scope(|scope| {
                for thread in 0..4 {
                    let data = &data;
                    scope.spawn(move || {
                        let file =
                            File::create(path.with_file_name(format!("{thread}.wal"))).expect("create");
                        for at in 0..times {
                            file.write_all_at(data, (at % 64) * bytes).expect("pwrite64");
                            file.sync_data().expect("fdatasync");
                        }
                    });
                }
            });
        }
        "same-place" => same_place(path, times, &data),
        "write-until-failure" => {
            let mut file = open();
            let failing =
                (0..times).position(|_| file.write_all(&data).and_then(|()| file.sync_data()).is_err());
            return failing.map_or(0, |position| position as u64 + 1);
        }
        other => panic!("order {other:?}"),
    }
    0
}

/// Two threads at a time that the probes keep in the same place, as far as there is room.
fn same_place(path: &Path, times: u64, data: &[u8]) {
    let write = |name: &str| {
        let file = File::create(path.with_file_name(name)).expect("create");
        for at in 0..times {
            file.write_all_at(data, (at % 64) * data.len() as u64).expect("pwrite64");
            file.sync_data().expect("fdatasync");
        }
    };
    // SAFETY: takes nothing.
    let place = || unsafe { libc::gettid() }.cast_unsigned() as usize % PLACES;
    let (taken, both) = (std::sync::OnceLock::new(), std::sync::Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            taken.set(place()).expect("set once");
            both.wait();
            write("first.wal");
        });
        // Threads are numbered in a row, so that one in so many has the same.
        let mut found = false;
        while !found {
            let other = scope.spawn(|| {
                if taken.get() != Some(&place()) {
                    return false;
                }
                both.wait();
                write("second.wal");
                true
            });
            found = other.join().expect("no panic");
        }
    });
}
