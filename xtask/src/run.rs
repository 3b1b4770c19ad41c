//! Running programs of the machine, each failure with what it said.

use anyhow::{Context, Result, bail};
use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::say::{self, Heartbeat};

/// Lines of a failed program's output that are shown.
const TAIL_LINES: usize = 25;

/// The program's path: `PATH`, then the directories of system programs that an ordinary user's `PATH` lacks.
pub fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|file| executable(file))
}

/// True for a file that may be run.
pub fn executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// True when this process runs as root.
pub fn root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

fn name(command: &Command) -> String {
    Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The command as one would type it.
pub fn line(command: &Command) -> String {
    let arguments = command.get_args().map(|a| a.to_string_lossy().into_owned());
    std::iter::once(name(command)).chain(arguments).collect::<Vec<_>>().join(" ")
}

/// Runs it and returns its standard output. Fails with the end of its error output.
pub fn output(command: &mut Command) -> Result<String> {
    let done =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {}", name(command)))?;
    if !done.status.success() {
        bail!(
            "`{}` failed ({}): {}",
            line(command),
            done.status,
            tail(&String::from_utf8_lossy(&done.stderr))
        );
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Runs it with the terminal as its own. True when it succeeded.
pub fn shown(command: &mut Command) -> Result<bool> {
    let status = command.status().with_context(|| format!("cannot start {}", name(command)))?;
    Ok(status.success())
}

/// Runs it with its output in `log`, saying now and then that it lives (`progress` adds what is known of how far it is).
/// Fails with the end of its output.
pub fn quietly(command: &mut Command, log: &Path, progress: impl Fn() -> String) -> Result<Duration> {
    if let Some(directory) = log.parent() {
        std::fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    }
    let file = File::create(log).with_context(|| format!("create {}", log.display()))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("cannot start {}", name(command)))?;
    let mut heartbeat = Heartbeat::start();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        heartbeat.beat(&progress());
        std::thread::sleep(Duration::from_millis(50));
    };
    let elapsed = heartbeat.stop();
    if !status.success() {
        let said = std::fs::read(log).unwrap_or_default();
        let said = tail(&String::from_utf8_lossy(&said));
        bail!("`{}` failed ({status}); its last words (all in {}):\n{said}", line(command), log.display());
    }
    Ok(elapsed)
}

/// [`quietly`] under a heading, with the time it took.
pub fn step(title: &str, command: &mut Command, log: &Path) -> Result<()> {
    say::note(title);
    let elapsed = quietly(command, log, String::new)?;
    say::note(&format!("done in {}", say::seconds(elapsed)));
    Ok(())
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}
