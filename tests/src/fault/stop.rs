//! SIGSTOP to a process that is a child of ours, or a child's child.

use anyhow::{Result, ensure};

use crate::etcd::Member;

/// A process that is stopped as long as the guard lives.
#[derive(Debug)]
pub struct Stopped {
    pid: u32,
}

impl Stopped {
    /// Stops a member.
    ///
    /// # Errors
    /// When it is not running.
    pub fn new(member: &Member) -> Result<Self> {
        Self::process(member.pid()?)
    }

    /// Stops a process.
    ///
    /// # Errors
    /// When it is gone.
    pub fn process(pid: u32) -> Result<Self> {
        // SAFETY: plain system call on a process that the caller knows to be the lab's.
        let result = unsafe { libc::kill(pid.cast_signed(), libc::SIGSTOP) };
        ensure!(result == 0, "stop process {pid}: {}", std::io::Error::last_os_error());
        Ok(Self { pid })
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // SAFETY: plain system call. Should the process have ended meanwhile, the call fails without effect.
        unsafe { libc::kill(self.pid.cast_signed(), libc::SIGCONT) };
    }
}
