//! A process that is called etcd and is none.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Ends when dropped.
#[derive(Debug)]
pub struct Standin(pub Child);

impl Drop for Standin {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// A program called etcd in `directory` that is a shell.
pub fn program(directory: &Path) -> PathBuf {
    let place = directory.join("standin");
    let program = place.join("etcd");
    if !program.exists() {
        std::fs::create_dir_all(&place).unwrap();
        // By another process: what this one has open for writing, a thread that starts a program has as well for a moment, and then
        // nobody can start what was written.
        assert!(std::process::Command::new("cp").arg("/bin/sh").arg(&program).status().unwrap().success());
    }
    program
}

impl Standin {
    /// Waits for its end, with these flags to be seen.
    pub fn start(directory: &Path, flags: &[&str]) -> Self {
        Self::run(directory, "read forever", flags)
    }

    /// Runs a script, with these flags to be seen.
    pub fn run(directory: &Path, script: &str, flags: &[&str]) -> Self {
        let child = Command::new(program(directory))
            .args(["-c", script])
            .args(flags)
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}
