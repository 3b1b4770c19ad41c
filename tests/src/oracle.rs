//! `perf stat` as the independent count of a process's syncs.
//!
//! perf counts entries of the system calls fsync and fdatasync in the kernel's own tracepoints, for all threads of the
//! process, those that come later included. It knows nothing of our probes.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};

use crate::tools;

const EVENTS: &str = "syscalls:sys_enter_fsync,syscalls:sys_enter_fdatasync";
const TRACEFS: &str = "/sys/kernel/tracing";

/// Distance of two rows of a series.
pub const SERIES_INTERVAL: Duration = Duration::from_millis(100);

/// How long perf may take to attach or to print its result.
const LIMIT: Duration = Duration::from_secs(10);

/// A running count of one process's fsync and fdatasync calls.
#[derive(Debug)]
pub struct SyncCount {
    child: Child,
    output: PathBuf,
}

impl SyncCount {
    /// Begins to count; returns once perf has said that it counts. `output` is a file of its own.
    ///
    /// # Errors
    /// When perf is not installed or may not attach.
    pub fn start(pid: u32, output: &Path) -> Result<Self> {
        let (control, acknowledge) = (output.with_extension("control"), output.with_extension("acknowledge"));
        let (mut orders, answers) = (fifo(&control)?, fifo(&acknowledge)?);
        let mut command = perf(pid)?;
        // Begins with its events switched off, and listens for the order to switch them on.
        command.arg("--delay=-1");
        command.arg(format!("--control=fifo:{},{}", control.display(), acknowledge.display()));
        command.arg("-o").arg(output).stdout(Stdio::null()).stderr(Stdio::null());
        let mut count = Self { child: command.spawn().context("start perf")?, output: output.to_owned() };
        orders.write_all(b"enable\n").context("tell perf to count")?;
        count.wait_acknowledged(answers)?;
        Ok(count)
    }

    /// Ends the count: entries of fsync and fdatasync since [`SyncCount::start`] returned.
    ///
    /// # Errors
    /// When perf failed, or its output is not what it should be.
    pub fn stop(mut self) -> Result<u64> {
        interrupt(&self.child);
        wait_for(&mut self.child)?;
        let text = fs::read_to_string(&self.output).context("read perf's result")?;
        let counts: Vec<u64> = text.lines().filter_map(|line| line.split(',').next()?.parse().ok()).collect();
        if counts.len() != 2 {
            bail!("perf printed no two counts:\n{text}");
        }
        Ok(counts.iter().sum())
    }

    fn wait_acknowledged(&mut self, mut answers: File) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        let mut answer = [0; 16];
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                let text = fs::read_to_string(&self.output).unwrap_or_default();
                bail!("perf ended: {status}\n{text}");
            }
            match answers.read(&mut answer) {
                Ok(count) if count > 0 => return Ok(()),
                // Nothing there yet.
                _would_block => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        bail!("perf did not attach within {LIMIT:?}")
    }
}

impl Drop for SyncCount {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// A new named pipe, opened at both ends so that nobody waits for the other side, and without blocking.
fn fifo(path: &Path) -> Result<File> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    // One left by an earlier count into the same file is of no use any more.
    let _absent = fs::remove_file(path);
    // SAFETY: the pointer is a C string that lives until after the call.
    if unsafe { libc::mkfifo(name.as_ptr(), 0o600) } != 0 {
        return Err(std::io::Error::last_os_error()).with_context(|| format!("make {}", path.display()));
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
    options.open(path).with_context(|| path.display().to_string())
}

/// A row of a series: syncs within a stretch of [`SERIES_INTERVAL`].
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// End of the stretch by this process's clock, read when perf printed the row.
    pub at: SystemTime,
    /// Entries of fsync and fdatasync.
    pub count: u64,
}

/// A running series of counts.
#[derive(Debug)]
pub struct SyncSeries {
    child: Child,
    rows: Arc<Mutex<Vec<Row>>>,
    reader: Option<JoinHandle<()>>,
}

impl SyncSeries {
    /// Begins; returns once the first row has arrived.
    ///
    /// # Errors
    /// When perf is not installed or may not attach.
    pub fn start(pid: u32) -> Result<Self> {
        let mut command = perf(pid)?;
        command.args(["-I", &SERIES_INTERVAL.as_millis().to_string()]);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().context("start perf")?;
        let output = child.stderr.take().context("perf's output is a pipe")?;
        let rows = Arc::new(Mutex::new(Vec::new()));
        let sink = rows.clone();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some(count) = count_of_line(&line) {
                    let row = Row { at: SystemTime::now(), count };
                    sink.lock().unwrap_or_else(PoisonError::into_inner).push(row);
                }
            }
        });
        let series = Self { child, rows, reader: Some(reader) };
        let deadline = Instant::now() + LIMIT;
        while series.rows().is_empty() {
            if Instant::now() > deadline {
                bail!("perf printed nothing within {LIMIT:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(series)
    }

    /// All rows so far. Each event has rows of its own.
    pub fn rows(&self) -> Vec<Row> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it and returns all rows.
    ///
    /// # Errors
    /// When perf does not end.
    pub fn stop(mut self) -> Result<Vec<Row>> {
        interrupt(&self.child);
        wait_for(&mut self.child)?;
        if let Some(reader) = self.reader.take()
            && reader.join().is_err()
        {
            bail!("the reader of perf's output panicked");
        }
        Ok(self.rows())
    }
}

impl Drop for SyncSeries {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Sums the rows whose whole stretch lies in `from..to`: never more than what happened in it.
pub fn count_within(rows: &[Row], from: SystemTime, to: SystemTime) -> u64 {
    // Two intervals of slack: one for the stretch itself, one for the delay of the pipe.
    rows.iter().filter(|row| row.at >= from + 2 * SERIES_INTERVAL && row.at <= to).map(|row| row.count).sum()
}

/// `timestamp,count,,event,…` is a row; anything else is not.
fn count_of_line(line: &str) -> Option<u64> {
    let mut fields = line.trim().split(',');
    fields.next()?.trim().parse::<f64>().ok()?;
    fields.next()?.trim().parse().ok()
}

fn perf(pid: u32) -> Result<Command> {
    mount_tracefs()?;
    let mut command = Command::new(tools::system("perf")?);
    command.args(["stat", "-x,", "-e", EVENTS, "-p", &pid.to_string()]).stdin(Stdio::null());
    Ok(command)
}

/// perf reads the numbers of tracepoints there. Mounting it costs nothing and may stay.
fn mount_tracefs() -> Result<()> {
    if Path::new(TRACEFS).join("events").exists() {
        return Ok(());
    }
    // SAFETY: all pointers are C strings; no data is passed.
    let result = unsafe {
        libc::mount(
            c"tracefs".as_ptr(),
            c"/sys/kernel/tracing".as_ptr(),
            c"tracefs".as_ptr(),
            0,
            std::ptr::null(),
        )
    };
    if result != 0 && !Path::new(TRACEFS).join("events").exists() {
        return Err(std::io::Error::last_os_error()).context("mount tracefs");
    }
    Ok(())
}

fn interrupt(child: &Child) {
    // SAFETY: the id is that of a child which has not been waited for.
    unsafe { libc::kill(child.id().cast_signed(), libc::SIGINT) };
}

fn wait_for(child: &mut Child) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("perf did not end within {LIMIT:?}")
}

fn end(child: &mut Child) {
    // Errors mean that it is gone already.
    let _already_gone = child.kill();
    let _status = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_perf_is_told_from_its_other_lines() {
        let row = "     0.100166452,12,,syscalls:sys_enter_fdatasync,200300400,100.00,,";
        assert_eq!(count_of_line(row), Some(12));
        assert_eq!(count_of_line("# started on Sat Nov 21"), None);
        assert_eq!(count_of_line("     0.1001,<not counted>,,syscalls:sys_enter_fsync,0,0.00,,"), None);
    }

    #[test]
    fn a_stretch_counts_only_if_it_lies_inside() {
        let start = SystemTime::UNIX_EPOCH;
        let rows: Vec<Row> = (1..=10).map(|i| Row { at: start + i * SERIES_INTERVAL, count: 1 }).collect();
        assert_eq!(count_within(&rows, start, start + 10 * SERIES_INTERVAL), 9);
        assert_eq!(count_within(&rows, start + 3 * SERIES_INTERVAL, start + 7 * SERIES_INTERVAL), 3);
    }
}
