//! A process that writes and syncs as told: this program itself, started again. It is what the probes watch.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead as _, BufReader, IoSlice, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::fs::{FileExt as _, OpenOptionsExt as _},
    },
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::aio::merged_writes;

/// Name of the hidden subcommand.
pub const SUBCOMMAND: &str = "writer";

/// `times` × (`bytes` written, then a sync) on a file; each is a word of the line that carries it.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// What to do.
    pub how: &'static str,
    /// With which file, relative to the writer's directory.
    pub file: &'static str,
    /// How often.
    pub times: u64,
    /// How many bytes each time.
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
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(directory: &Path) -> Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .arg(SUBCOMMAND)
            .arg(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the writer")?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("piped")?);
        let mut writer = Self { child, input, output };
        writer.wait_for("ready")?;
        Ok(writer)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait_for(&mut self, word: &str) -> Result<()> {
        let mut line = String::new();
        self.output.read_line(&mut line).context("read the writer's answer")?;
        ensure!(line.trim_end() == word, "the writer said {line:?} in place of {word}");
        Ok(())
    }

    /// Has orders carried out, one after the other, and waits for their end.
    ///
    /// # Errors
    /// When one can't be.
    pub fn carry_out(&mut self, orders: &[Order]) -> Result<()> {
        for Order { how, file, times, bytes } in orders {
            let input = self.input.as_mut().context("open until dropped")?;
            writeln!(input, "{how} {file} {times} {bytes}").context("tell the writer")?;
            self.wait_for("done").with_context(|| format!("{how} {file} × {times}"))?;
        }
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.wait();
    }
}

/// The child's side.
///
/// # Errors
/// When an order can't be carried out; the parent sees that no answer comes.
pub fn serve(directory: &Path) -> Result<()> {
    std::env::set_current_dir(directory).with_context(|| format!("go to {}", directory.display()))?;
    println!("ready");
    for line in std::io::stdin().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let [how, file, times, bytes] = words[..] else { bail!("order {line:?}") };
        carry_out(how, Path::new(file), times.parse()?, bytes.parse()?).with_context(|| line.clone())?;
        println!("done");
    }
    Ok(())
}

/// What O_DIRECT wants.
#[repr(align(4096))]
struct Aligned([u8; 4096]);

fn carry_out(how: &str, path: &Path, times: u64, bytes: u64) -> Result<()> {
    let data = vec![b'x'; bytes as usize];
    let open = || OpenOptions::new().append(true).create(true).open(path);
    match how {
        "write+fdatasync" => {
            let mut file = open()?;
            for _ in 0..times {
                file.write_all(&data)?;
                file.sync_data()?;
            }
        }
        "write+fsync" => {
            let mut file = open()?;
            for _ in 0..times {
                file.write_all(&data)?;
                file.sync_all()?;
            }
        }
        "write" => {
            let mut file = open()?;
            for _ in 0..times {
                file.write_all(&data)?;
            }
        }
        "writev" => {
            let mut file = open()?;
            let (head, tail) = data.split_at(data.len() / 2);
            for _ in 0..times {
                let written = file.write_vectored(&[IoSlice::new(head), IoSlice::new(tail)])?;
                ensure!(written == data.len(), "{written} bytes of {} written", data.len());
            }
        }
        "pwrite+fdatasync" => {
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
            for at in 0..times {
                file.write_all_at(&data, (at % 8) * bytes)?;
                file.sync_data()?;
            }
        }
        "fsync" => {
            let file = File::open(path)?;
            for _ in 0..times {
                file.sync_all()?;
            }
        }
        "range" => {
            let file = open()?;
            for _ in 0..times {
                // SAFETY: a descriptor of ours and numbers.
                let result = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, 2) };
                ensure!(result == 0, "{}", std::io::Error::last_os_error());
            }
        }
        "direct" => {
            let file = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path)?;
            let aligned = Aligned([b'y'; 4096]);
            for at in 0..times {
                // A place of its own each time, so that no two make one request.
                file.write_all_at(&aligned.0[..bytes as usize], at * 2 * 4_096)?;
            }
        }
        "merged" => merged_writes(path, times)?,
        "rename" => std::fs::rename(path, path.with_file_name("0000000000000001-0000000000000001.wal"))?,
        "directories" => {
            for number in 0..times {
                let made = path.with_file_name(format!("churn{number}"));
                std::fs::create_dir(&made)?;
                std::fs::remove_dir(&made)?;
            }
        }
        other => bail!("order {other:?}"),
    }
    Ok(())
}
