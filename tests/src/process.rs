//! A child process that never outlives its guard, or this process.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::place::tail;

/// Lines of a log that are shown when something fails.
pub const TAIL_LINES: usize = 40;

/// Niceness of children, if it is not this process's own.
static CHILDREN: OnceLock<i32> = OnceLock::new();

/// Puts this process so many steps of niceness ahead of all the children that it will have: what a lab measures and asks
/// must not wait for the harm that it does. Where that is refused nothing changes.
pub fn run_ahead(steps: i32) {
    // SAFETY: plain numbers; 0 is this process.
    let own = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    let base = *CHILDREN.get_or_init(|| own);
    for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        if let Ok(id) = task.file_name().to_string_lossy().parse() {
            // SAFETY: plain numbers; a thread that has ended is no error that matters.
            let _refused = unsafe { libc::setpriority(libc::PRIO_PROCESS, id, base - steps) };
        }
    }
}

/// A running child with its output in a log file. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with standard output and error appended to `log`. Each file of `groups` (a cgroup's
    /// `cgroup.procs`) receives the child before it runs.
    ///
    /// The child gets a process group of its own, so that an interrupt from the terminal reaches only the lab, and it
    /// is killed when the lab's thread that started it ends, however the lab ends. So start processes from threads
    /// that live as long as the lab.
    ///
    /// # Errors
    /// When the program can't be started or the log not be opened.
    pub fn start(name: &str, mut command: Command, log: &Path, groups: &[PathBuf]) -> Result<Self> {
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| log.display().to_string())?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
        let groups: Vec<File> = groups
            .iter()
            .map(|path| OpenOptions::new().write(true).open(path).with_context(|| path.display().to_string()))
            .collect::<Result<_>>()?;
        die_with_parent(&mut command, groups);
        let child = command.spawn().with_context(|| format!("start {name}"))?;
        Ok(Self { child, name: name.to_owned(), log: log.to_owned() })
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The name it was started under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// All it has printed so far, earlier runs into the same log included.
    pub fn output(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Its exit status once it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// An error that tells how it ended, if it did.
    ///
    /// # Errors
    /// When it is not running any more; the message has the end of its log.
    pub fn check_running(&mut self) -> Result<()> {
        match self.ended() {
            None => Ok(()),
            Some(status) => {
                bail!("{} ended: {status}\n{}", self.name, tail(&self.log, TAIL_LINES))
            }
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: i32) -> Result<()> {
        // SAFETY: the id is that of a child which has not been waited for, so it can't have been reused.
        let result = unsafe { libc::kill(self.child.id().cast_signed(), signal) };
        if result != 0 {
            return Err(io::Error::last_os_error())
                .with_context(|| format!("signal {signal} to {}", self.name));
        }
        Ok(())
    }

    /// kill -9, and waits for the end.
    pub fn kill(&mut self) {
        // Errors mean that it is gone already, which is what is wanted.
        let _already_gone = self.child.kill();
        let _status = self.child.wait();
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// When it does not end within `limit`; it is killed then.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.ended() {
            return Ok(status);
        }
        self.signal(libc::SIGTERM)?;
        self.wait(limit)
    }

    /// Waits for the end, blocking the thread.
    ///
    /// # Errors
    /// When it does not end within `limit`; it is killed then.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.kill();
        bail!("{} did not end within {limit:?}\n{}", self.name, tail(&self.log, TAIL_LINES))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Lets the kernel kill the child when the parent dies, and moves it into the cgroups first.
fn die_with_parent(command: &mut Command, groups: Vec<File>) {
    use std::os::fd::AsRawFd;
    let parent = std::process::id().cast_signed();
    let niceness = CHILDREN.get().copied();
    // SAFETY: between fork and exec only async-signal-safe calls are made: prctl, getppid, setpriority, write. The files
    // are owned by the closure and stay open.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            if libc::getppid() != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            if let Some(niceness) = niceness
                && libc::setpriority(libc::PRIO_PROCESS, 0, niceness) != 0
            {
                return Err(io::Error::last_os_error());
            }
            for group in &groups {
                if libc::write(group.as_raw_fd(), b"0".as_ptr().cast(), 1) != 1 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
}

/// Runs a short command to its end.
///
/// # Errors
/// When it can't be started or fails; the message has its output.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
