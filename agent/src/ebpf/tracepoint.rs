//! Attaches programs to syscall tracepoints. The events' numbers are in tracefs; where it is not mounted the agent
//! opens an instance that nobody else sees (fsopen(2), fsmount(2)) and leaves the host's mounts alone.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Where tracefs usually is.
const MOUNT_POINTS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Whoever was forked while a hook was taken away has begun its program by then.
const LETS_GO_WITHIN: Duration = Duration::from_millis(500);

/// A tracepoint that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TracepointError {
    /// tracefs is neither mounted nor can it be opened.
    #[error("open tracefs")]
    Tracefs(#[source] io::Error),
    /// The event's number can't be read.
    #[error("read the number of event {event}")]
    Event {
        /// `syscalls/sys_enter_fsync` and the like.
        event: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The kernel refused.
    #[error("attach to {event}")]
    Attach {
        /// The event.
        event: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

/// An open tracefs.
#[derive(Debug)]
pub struct Tracefs {
    root: PathBuf,
    /// Keeps a private instance alive; `root` leads through it.
    _instance: Option<OwnedFd>,
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let number = check(result)? as i32;
    // SAFETY: a descriptor that the kernel has just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A tracefs of our own, mounted nowhere.
fn private_instance() -> io::Result<OwnedFd> {
    const CLOEXEC: libc::c_uint = 1;
    const CREATE: libc::c_uint = 6;
    const READ_ONLY: libc::c_uint = 1;
    // SAFETY: a terminated string and a flag.
    let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, c"tracefs".as_ptr(), CLOEXEC) })?;
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: a descriptor of ours; the command takes no arguments.
    check(unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), CREATE, none, none, 0) })?;
    // SAFETY: a descriptor of ours and flags.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), CLOEXEC, READ_ONLY) })
}

impl Tracefs {
    /// The mounted one, else a private one.
    ///
    /// # Errors
    /// When there is neither: without CAP_SYS_ADMIN, or before Linux 5.2.
    pub fn open() -> Result<Self, TracepointError> {
        let mounted = MOUNT_POINTS.iter().find(|root| Path::new(root).join("events/syscalls").is_dir());
        if let Some(root) = mounted {
            return Ok(Self { root: PathBuf::from(root), _instance: None });
        }
        let instance = private_instance().map_err(TracepointError::Tracefs)?;
        let root = PathBuf::from(format!("/proc/self/fd/{}", instance.as_raw_fd()));
        Ok(Self { root, _instance: Some(instance) })
    }

    /// The number of an event such as `syscalls/sys_enter_fsync`.
    fn number(&self, event: &str) -> Result<u64, TracepointError> {
        let fault = |source| TracepointError::Event { event: event.to_owned(), source };
        let text = std::fs::read_to_string(self.root.join("events").join(event).join("id")).map_err(fault)?;
        text.trim().parse().map_err(|_| fault(io::ErrorKind::InvalidData.into()))
    }

    /// Runs `program` at each such event on any CPU and in any process, until the result is dropped.
    ///
    /// # Errors
    /// When the event does not exist or the kernel refuses.
    pub fn attach(&self, program: BorrowedFd<'_>, event: &str) -> Result<OwnedFd, TracepointError> {
        let number = self.number(event)?;
        attach(program, number).map_err(|source| TracepointError::Attach { event: event.to_owned(), source })
    }
}

/// The first version of perf_event_attr (include/uapi/linux/perf_event.h), which every kernel takes.
#[repr(C)]
struct PerfEventAttributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_type: u32,
    breakpoint_address: u64,
}

fn attach(program: BorrowedFd<'_>, number: u64) -> io::Result<OwnedFd> {
    const TRACEPOINT: u32 = 2;
    const CLOEXEC: libc::c_ulong = 8;
    const SET_BPF: libc::c_ulong = 0x4004_2408;
    const ENABLE: libc::c_ulong = 0x2400;
    let attributes = PerfEventAttributes {
        kind: TRACEPOINT,
        size: size_of::<PerfEventAttributes>() as u32,
        config: number,
        sample_period: 1,
        sample_type: 0,
        read_format: 0,
        flags: 0,
        wakeup_events: 1,
        breakpoint_type: 0,
        breakpoint_address: 0,
    };
    // The program hangs on the event itself and runs on every CPU, whichever the descriptor names.
    let (any_process, first_cpu, no_group) = (-1, 0, -1);
    // SAFETY: attributes are alive during the call and say their own size.
    let event = owned(unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            any_process,
            first_cpu,
            no_group,
            CLOEXEC,
        )
    })?;
    let descriptor = event.as_fd().as_raw_fd();
    let set = || {
        // SAFETY: descriptors of ours.
        check(libc::c_long::from(unsafe { libc::ioctl(descriptor, SET_BPF as _, program.as_raw_fd()) }))
    };
    let begin = Instant::now();
    while let Err(error) = set() {
        // A program hangs on an event once. The event of a hook that was just taken away lives on while a child that is about
        // to begin another program still has its descriptor.
        if error.raw_os_error() != Some(libc::EEXIST) || begin.elapsed() > LETS_GO_WITHIN {
            return Err(error);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    // SAFETY: a descriptor of ours.
    check(libc::c_long::from(unsafe { libc::ioctl(descriptor, ENABLE as _, 0) }))?;
    Ok(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_is_not_there_is_named() {
        let tracefs = Tracefs { root: PathBuf::from("/nonexistent"), _instance: None };
        let error = tracefs.number("syscalls/sys_enter_fsync").expect_err("no such directory");
        assert_eq!(error.to_string(), "read the number of event syscalls/sys_enter_fsync");
    }

    #[test]
    fn a_number_is_read_and_garbage_is_not() {
        let place = tempfile::tempdir().expect("temporary directory");
        let event = place.path().join("events/a/b");
        std::fs::create_dir_all(&event).expect("create");
        let tracefs = Tracefs { root: place.path().to_owned(), _instance: None };
        std::fs::write(event.join("id"), "713\n").expect("write");
        assert_eq!(tracefs.number("a/b").expect("a number"), 713);
        std::fs::write(event.join("id"), "x").expect("write");
        assert!(matches!(tracefs.number("a/b"), Err(TracepointError::Event { .. })));
    }
}
