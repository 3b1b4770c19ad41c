//! A journald of the test's own, in a mount namespace of its own, with its own `/run`, `/var/log` and machine id.

use std::fs;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::linux::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::wait_for;

const PROGRAM: &str = "/lib/systemd/systemd-journald";

/// `Audit=` with no value leaves the kernel's auditing alone, which is everybody's.
const SETTINGS: &str =
    "[Journal]\nStorage=persistent\nReadKMsg=no\nAudit=\nForwardToWall=no\nRateLimitBurst=0\n";

/// journald only empties a `/run` that is in memory.
const START: &str = "\
mount -t tmpfs -o size=256m,mode=755 run /run
mkdir -p /run/systemd/journal /run/systemd/journald.conf.d
cp \"$1/settings\" /run/systemd/journald.conf.d/test.conf
mount --bind \"$1/log\" /var/log
mount --bind \"$1/etc\" /etc
touch /run/of-this-test
exec /lib/systemd/systemd-journald";

/// What is mounted there is seen from outside as well.
fn root(child: &Child) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root", child.id()))
}

pub struct Journald {
    child: Child,
    root: PathBuf,
}

impl Drop for Journald {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Journald {
    /// Its files of `/var/log` lie in `directory`. `None`, with a word, where that can't be done.
    pub fn start(directory: &Path) -> Option<Self> {
        if !Path::new(PROGRAM).exists() {
            eprintln!("SKIPPED: no {PROGRAM} here (package systemd)");
            return None;
        }
        let directory = directory.join("journald");
        for part in ["log/journal", "etc"] {
            fs::create_dir_all(directory.join(part)).unwrap();
        }
        fs::write(directory.join("etc/machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
        fs::write(directory.join("settings"), SETTINGS).unwrap();
        let child = Command::new("unshare")
            .args(["--mount", "--net", "--propagation=private", "sh", "-ec", START, "sh"])
            .arg(&directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(directory.join("stderr")).unwrap())
            .spawn();
        let child = match child {
            Ok(child) => child,
            Err(error) => {
                eprintln!("SKIPPED: no unshare here: {error}");
                return None;
            }
        };
        let root = root(&child);
        let mut journald = Self { child, root };
        let deadline = Instant::now() + Duration::from_secs(20);
        // Until then it is the journald of this machine.
        let is_own = |journald: &Self| journald.root.join("run/of-this-test").exists();
        while !is_own(&journald) || UnixStream::connect(journald.socket("stdout")).is_err() {
            if let Some(status) = journald.child.try_wait().unwrap() {
                let said = fs::read_to_string(directory.join("stderr")).unwrap_or_default();
                eprintln!("SKIPPED: journald does not run in a namespace here ({status}): {said}");
                return None;
            }
            assert!(Instant::now() < deadline, "journald does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(journald)
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.root.join("run/systemd/journal").join(name)
    }

    /// The flag that lets an agent read it.
    pub fn flags(&self) -> [String; 2] {
        ["var/log/journal", "run/log/journal"]
            .map(|place| format!("--discovery-journal-dir={}", self.root.join(place).display()))
    }

    /// Names of its files below a directory.
    pub fn files(&self, below: &str) -> Vec<String> {
        let machine = self.root.join(below).join("0123456789abcdef0123456789abcdef");
        let entries = fs::read_dir(machine).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// A stream for standard error as systemd makes it, and the value of `JOURNAL_STREAM` that goes with it.
    pub fn stream(&self, identifier: &str) -> (OwnedFd, String) {
        let mut stream = UnixStream::connect(self.socket("stdout")).unwrap();
        // Identifier, unit, priority, whether lines have one, and three places to forward to.
        write!(stream, "{identifier}\n\n6\n1\n0\n0\n0\n").unwrap();
        // What comes before journald has taken the stream has no sender.
        std::thread::sleep(Duration::from_millis(300));
        let fd = OwnedFd::from(stream);
        let metadata = fs::File::from(fd.try_clone().unwrap()).metadata().unwrap();
        (fd, format!("{}:{}", metadata.st_dev(), metadata.st_ino()))
    }

    /// A command that runs in its namespace, where its sockets are at their usual places.
    pub fn inside(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.child.id())).arg("--").arg(program);
        command
    }

    /// Moves what is in `/run` to `/var`, as when that becomes writable.
    pub fn flush(&self) {
        self.signal(libc::SIGUSR1);
        wait_for("flush", Duration::from_secs(20), || self.files("run/log/journal").is_empty().then_some(()));
    }

    /// Archives the file, and begins the next one.
    pub fn rotate(&self) {
        let before = self.files("var/log/journal").len();
        self.signal(libc::SIGUSR2);
        wait_for("rotation", Duration::from_secs(20), || {
            (self.files("var/log/journal").len() > before).then_some(())
        });
    }

    fn signal(&self, signal: i32) {
        // SAFETY: a process of ours that has not been waited for.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }
}
