//! The processes that do harm: children of the lab with names of their own, so that a diagnosis has somebody to name.
//!
//! Each is the lab's own program under another name. It says on its standard output when it began, does one thing until
//! it is killed, and ends by itself after [`LONGEST`] whatever becomes of the lab.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use clap::Subcommand;

use crate::disk::free_bytes;

/// No harm lasts longer.
const LONGEST: Duration = Duration::from_secs(60);

/// Begins the line that tells when it began, in nanoseconds since 1970.
const ONSET: &str = "onset ";

/// Largest write, and the alignment of all.
const BLOCK: usize = 1 << 20;

/// Directories and files in each, of those whose metadata is changed: some inodes a block, so blocks enough for a journal.
pub const STORM: (u32, u32) = (64, 256);

/// Changes between two pauses of a storm.
const STORM_STEP: u32 = 32;

#[repr(align(4096))]
struct Aligned([u8; BLOCK]);

/// What is written: aligned as direct I/O wants it.
static DATA: Aligned = Aligned([b'n'; BLOCK]);

/// What is done.
#[derive(Debug, Clone, Subcommand)]
pub enum Act {
    /// Overwrites a file from its begin to its end, again and again, each thread its own part
    Write {
        /// The file, which is there and has its size
        file: PathBuf,
        /// Threads
        #[arg(long)]
        threads: u32,
        /// Size of a write
        #[arg(long)]
        kib: u32,
        /// Writes before each sync; 0 = never
        #[arg(long, default_value_t = 0)]
        writes: u32,
        /// fsync, else fdatasync
        #[arg(long)]
        whole: bool,
        /// Past the page cache
        #[arg(long)]
        direct: bool,
    },
    /// Changes metadata below a directory that [`prepare_storm`] filled
    Storm {
        /// The directory
        directory: PathBuf,
        /// Files whose inode is changed, a second
        #[arg(long)]
        touches: u32,
    },
    /// Keeps processors busy
    Hog {
        /// Threads
        #[arg(long)]
        threads: u32,
        /// How much niceness to take away
        #[arg(long)]
        urgent: u32,
    },
    /// Stops a process and lets it go on
    Stop {
        /// Its id
        pid: u32,
        /// In between
        #[arg(long)]
        millis: u64,
        /// Ends then
        #[arg(long)]
        leaves: bool,
    },
    /// Fills a filesystem and goes on writing
    Fill {
        /// A directory on it
        directory: PathBuf,
        /// What is left
        #[arg(long)]
        left_mib: u64,
        /// What goes on being written
        #[arg(long)]
        kib_per_second: u64,
    },
}

impl Act {
    /// The command line that makes the lab's program do it.
    pub fn arguments(&self) -> Vec<String> {
        let text = |path: &Path| path.display().to_string();
        let mut words = vec!["act".to_owned()];
        let mut say = |more: &[&str]| words.extend(more.iter().map(|word| (*word).to_owned()));
        match self {
            Self::Write { file, threads, kib, writes, whole, direct } => {
                say(&["write", &text(file), "--threads", &threads.to_string(), "--kib", &kib.to_string()]);
                say(&["--writes", &writes.to_string()]);
                if *whole {
                    say(&["--whole"]);
                }
                if *direct {
                    say(&["--direct"]);
                }
            }
            Self::Storm { directory, touches } => {
                say(&["storm", &text(directory), "--touches", &touches.to_string()]);
            }
            Self::Hog { threads, urgent } => {
                say(&["hog", "--threads", &threads.to_string(), "--urgent", &urgent.to_string()]);
            }
            Self::Stop { pid, millis, leaves } => {
                say(&["stop", &pid.to_string(), "--millis", &millis.to_string()]);
                if *leaves {
                    say(&["--leaves"]);
                }
            }
            Self::Fill { directory, left_mib, kib_per_second } => {
                say(&["fill", &text(directory), "--left-mib", &left_mib.to_string()]);
                say(&["--kib-per-second", &kib_per_second.to_string()]);
            }
        }
        words
    }

    /// Does it until somebody ends this process, or [`LONGEST`] is over.
    ///
    /// # Errors
    /// When it can't be done.
    pub fn run(&self) -> Result<()> {
        std::thread::spawn(|| {
            sleep(LONGEST);
            std::process::exit(0);
        });
        match self {
            Self::Write { .. } => self.write(),
            Self::Storm { directory, touches } => storm(directory, *touches),
            Self::Hog { threads, urgent } => hog(*threads, *urgent),
            Self::Stop { pid, millis, leaves } => stop(*pid, Duration::from_millis(*millis), *leaves),
            Self::Fill { directory, left_mib, kib_per_second } => {
                fill(directory, left_mib << 20, *kib_per_second << 10)
            }
        }
    }

    fn write(&self) -> Result<()> {
        let Self::Write { file, threads, kib, writes, whole, direct } = self else { return Ok(()) };
        let length = (*kib as usize) << 10;
        ensure!(length.is_multiple_of(4_096) && (1..=BLOCK).contains(&length), "{kib} KiB");
        let size = fs::metadata(file).with_context(|| file.display().to_string())?.len();
        let part = size / u64::from(*threads).max(1) / BLOCK as u64 * BLOCK as u64;
        ensure!(part >= length as u64, "{} is too small", file.display());
        on_threads(*threads, |number| {
            let flags = if *direct { libc::O_DIRECT } else { 0 };
            let file = OpenOptions::new().write(true).custom_flags(flags).open(file)?;
            let begin = u64::from(number) * part;
            began();
            for turn in 1_u64.. {
                let at = begin + (turn * length as u64) % (part - part % length as u64);
                file.write_all_at(&DATA.0[..length], at)?;
                if *writes > 0 && turn.is_multiple_of(u64::from(*writes)) {
                    if *whole { file.sync_all() } else { file.sync_data() }?;
                }
            }
            Ok(())
        })
    }
}

/// The moment that a process told of in what it printed.
pub fn onset(output: &str) -> Option<SystemTime> {
    let nanoseconds = output.lines().find_map(|line| line.strip_prefix(ONSET))?.parse().ok()?;
    Some(UNIX_EPOCH + Duration::from_nanos(nanoseconds))
}

/// Tells, once in a process, that the harm begins now.
fn began() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        println!("{ONSET}{}", now.as_nanos());
    });
}

fn on_threads(count: u32, work: impl Fn(u32) -> Result<()> + Sync) -> Result<()> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..count).map(|number| scope.spawn(move || work(number))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no harm panics"))
    })
}

/// Files and directories for a storm, spread over as many blocks as possible.
///
/// # Errors
/// When they can't be made.
pub fn prepare_storm(directory: &Path) -> Result<()> {
    for number in 0..STORM.0 {
        let inner = directory.join(format!("d{number}"));
        fs::create_dir_all(&inner).with_context(|| inner.display().to_string())?;
        for file in 0..STORM.1 {
            File::create(inner.join(format!("f{file}")))?;
        }
    }
    Ok(())
}

/// Changes inodes all over the directory, and makes, renames and removes files and directories, without a byte of data.
fn storm(directory: &Path, touches: u32) -> Result<()> {
    let pause = Duration::from_secs_f64(f64::from(STORM_STEP) / f64::from(touches.max(1)));
    let mut files = Vec::new();
    for number in 0..STORM.0 * STORM.1 {
        // A step that has no common divisor with their number meets all of them, each far from the one before.
        let place = (number * 4_099) % (STORM.0 * STORM.1);
        let path = directory.join(format!("d{}/f{}", place / STORM.1, place % STORM.1));
        files.push(std::ffi::CString::new(path.as_os_str().as_encoded_bytes())?);
    }
    began();
    let begin = Instant::now();
    for (step, some) in (1_u32..).zip(files.chunks(STORM_STEP as usize).cycle()) {
        for file in some {
            touch(file)?;
        }
        let inner = directory.join(format!("d{}", step % STORM.0));
        let (made, renamed, extra) = (inner.join("made"), inner.join("renamed"), inner.join("extra"));
        File::create(&made)?;
        fs::rename(&made, &renamed)?;
        fs::create_dir(&extra).or_else(already_there)?;
        fs::remove_dir(&extra)?;
        fs::remove_file(&renamed)?;
        sleep((pause * step).saturating_sub(begin.elapsed()));
    }
    Ok(())
}

/// What the last storm left when it was killed is as good as new.
fn already_there(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
}

fn touch(file: &std::ffi::CStr) -> Result<()> {
    // SAFETY: a C string that lives until after the call; no times means now.
    let result = unsafe { libc::utimensat(libc::AT_FDCWD, file.as_ptr(), std::ptr::null(), 0) };
    ensure!(result == 0, "touch {}: {}", file.to_string_lossy(), io::Error::last_os_error());
    Ok(())
}

fn hog(threads: u32, urgent: u32) -> Result<()> {
    let urgent = i32::try_from(urgent).unwrap_or_default();
    // SAFETY: plain number. Where it is refused the loops are as urgent as everybody else.
    let _niceness = unsafe { libc::nice(-urgent) };
    on_threads(threads, |_number| {
        began();
        loop {
            std::hint::spin_loop();
        }
    })
}

fn stop(pid: u32, time: Duration, leaves: bool) -> Result<()> {
    let send = |signal: i32| {
        // SAFETY: plain system call on a process that the lab named.
        let result = unsafe { libc::kill(pid.cast_signed(), signal) };
        ensure!(result == 0, "signal {signal} to {pid}: {}", io::Error::last_os_error());
        Ok(())
    };
    began();
    send(libc::SIGSTOP)?;
    sleep(time);
    send(libc::SIGCONT)?;
    if !leaves {
        sleep(LONGEST);
    }
    Ok(())
}

/// Sets blocks aside until little is left, and takes the rest bit by bit.
fn fill(directory: &Path, left: u64, per_second: u64) -> Result<()> {
    let free = free_bytes(directory)?;
    let aside = File::create(directory.join("aside"))?;
    let wanted = free.saturating_sub(left);
    ensure!(wanted > 0, "only {free} bytes are free");
    // SAFETY: plain numbers and a descriptor that is open for the call.
    let result = unsafe { libc::fallocate(aside.as_raw_fd(), 0, 0, i64::try_from(wanted)?) };
    ensure!(result == 0, "set {wanted} bytes aside: {}", io::Error::last_os_error());
    began();
    let mut log = File::create(directory.join("log"))?;
    let bit = vec![b'f'; usize::try_from(per_second / 4)?];
    let begin = Instant::now();
    for step in 1_u32.. {
        if free_bytes(directory)? > left / 4 {
            log.write_all(&bit)?;
        } else {
            log.set_len(0)?;
            io::Seek::rewind(&mut log)?;
        }
        log.sync_data()?;
        sleep((Duration::from_millis(250) * step).saturating_sub(begin.elapsed()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        act: Act,
    }

    #[test]
    fn a_command_line_means_what_it_was_made_of() {
        let acts = [
            Act::Write { file: "/x y".into(), threads: 3, kib: 256, writes: 4, whole: true, direct: false },
            Act::Write { file: "/x".into(), threads: 3, kib: 256, writes: 0, whole: false, direct: true },
            Act::Storm { directory: "/s".into(), touches: 9 },
            Act::Hog { threads: 2, urgent: 5 },
            Act::Stop { pid: 7, millis: 300, leaves: true },
            Act::Fill { directory: "/d".into(), left_mib: 9, kib_per_second: 512 },
        ];
        for act in acts {
            let read = Line::try_parse_from(act.arguments()).unwrap().act;
            assert_eq!(format!("{read:?}"), format!("{act:?}"));
        }
    }

    #[test]
    fn the_begin_is_read_from_what_was_printed() {
        let told = onset("noise\nonset 1500000000\nonset 3\n");
        assert_eq!(told, Some(UNIX_EPOCH + Duration::from_millis(1_500)));
        assert_eq!(onset("onset soon\n"), None);
        assert_eq!(onset(""), None);
    }

    #[test]
    fn a_storm_meets_every_file() {
        let count = STORM.0 * STORM.1;
        let met: std::collections::HashSet<u32> = (0..count).map(|number| (number * 4_099) % count).collect();
        assert_eq!(met.len(), count as usize);
    }
}
