//! What the benchmark has others do: a process that syncs all the time, one that answers each byte, and loops of system calls
//! that are timed.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// At a line of its input writes 2,300 bytes to a file like a WAL segment and syncs it, on so many threads, `per_second` times
/// in all, for so long. Then prints how often it did and the microseconds that took, and ends with its input.
///
/// # Errors
/// When a file can't be made, written or synced.
pub fn sync_all_the_time(directory: &Path, threads: u32, per_second: u32, time: Duration) -> Result<()> {
    io::stdin().read_line(&mut String::new())?;
    let (made, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let wal = directory.join("member/wal");
    std::fs::create_dir_all(&wal)?;
    let begin = Instant::now();
    std::thread::scope(|scope| -> Result<()> {
        let mut running = Vec::new();
        for thread in 0..threads {
            let path = wal.join(format!("{thread:016x}-0000000000000000.wal"));
            let (made, failed) = (&made, &failed);
            running.push(scope.spawn(move || -> Result<()> {
                let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
                let pace = Duration::from_secs(1) * threads / per_second.max(1);
                for number in 0.. {
                    let due = begin + pace * number;
                    if due > begin + time || failed.load(Ordering::Relaxed) {
                        break;
                    }
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    // Within 1 MiB, whose blocks are there after the first round.
                    file.write_all_at(&[b'x'; 2_300], u64::from(number % 400) * 2_300)?;
                    file.sync_data().inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
                    made.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            }));
        }
        for thread in running {
            thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        Ok(())
    })?;
    println!("{} {}", made.into_inner(), begin.elapsed().as_micros());
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Answers each byte of its input with the same, on the first CPU, until the input ends.
///
/// # Errors
/// When the output is closed.
pub fn echo() -> Result<()> {
    stay_on_first_cpu()?;
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let mut byte = [0];
    while input.read(&mut byte)? == 1 {
        output.write_all(&byte)?;
        output.flush()?;
    }
    Ok(())
}

/// Keeps this thread on the first CPU.
fn stay_on_first_cpu() -> io::Result<()> {
    // SAFETY: all zeros is a valid set; the kernel reads it during the call.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(0, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Nanoseconds of a round, on average over so long.
fn rounds(time: Duration, mut round: impl FnMut() -> io::Result<()>) -> io::Result<f64> {
    const BETWEEN_LOOKS: u32 = 200;
    let begin = Instant::now();
    let mut done = 0.0;
    while begin.elapsed() < time {
        for _ in 0..BETWEEN_LOOKS {
            round()?;
        }
        done += f64::from(BETWEEN_LOOKS);
    }
    Ok(begin.elapsed().as_secs_f64() * 1e9 / done)
}

/// The cheapest system call.
pub(super) fn getppid_ns(time: Duration) -> io::Result<f64> {
    rounds(time, || {
        // SAFETY: takes nothing; a plain system call, past the C library.
        unsafe { libc::syscall(libc::SYS_getppid) };
        Ok(())
    })
}

/// A write to a pipe and the read of it.
pub(super) fn pipe_ns(time: Duration) -> io::Result<f64> {
    let (mut reader, mut writer) = io::pipe()?;
    rounds(time, || {
        writer.write_all(&[1])?;
        reader.read_exact(&mut [0])
    })
}

/// Another process that answers each byte ([`echo`]).
pub(super) struct Echo {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
}

impl Echo {
    pub(super) fn start() -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["bench", "echo"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start a process that answers")?;
        let (input, output) = child.stdin.take().zip(child.stdout.take()).context("both are pipes")?;
        Ok(Self { child, input, output })
    }

    /// A byte there and back, both processes on the first CPU. To be called on a thread of its own, which stays there.
    pub(super) fn ping_pong_ns(&mut self, time: Duration) -> io::Result<f64> {
        stay_on_first_cpu()?;
        rounds(time, || {
            self.input.write_all(&[1])?;
            self.output.read_exact(&mut [0])
        })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // It would end with its input, which is closed only after this.
        let _already_gone = self.child.kill();
        let _status = self.child.wait();
    }
}
