//! Processes that begin and end, told by the kernel at once: an etcd that lives for a tenth of a second is seen too, and how
//! it ended.
//!
//! The process connector (`Documentation/driver-api/connector.rst`, `include/uapi/linux/cn_proc.h`) needs CAP_NET_ADMIN and the
//! network and process namespaces of the host. A filter in the kernel lets only exec and the end of whole processes
//! through. Where it can't be had, or loses messages, scanning `/proc` remains.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use super::{EtcdProcess, Sighter};

/// `NETLINK_CONNECTOR`.
const NETLINK_CONNECTOR: i32 = 11;

/// `CN_IDX_PROC` and `CN_VAL_PROC`.
const CN_PROC: u32 = 1;

/// `PROC_CN_MCAST_LISTEN`.
const LISTEN: u32 = 1;

/// `PROC_EVENT_EXEC`.
const EXEC: u32 = 0x0000_0002;

/// `PROC_EVENT_EXIT`.
const EXIT: u32 = 0x8000_0000;

/// Where `proc_event.what` lies: behind `nlmsghdr` (16) and `cn_msg` (20).
const WHAT: u32 = 36;

/// Where pid, tgid and exit code lie: behind what, cpu and the time of 8 bytes.
const PID: u32 = 52;
const TGID: u32 = 56;
const CODE: u32 = 60;

/// Messages that may wait for discovery. Beyond it one is dropped: scanning finds what it told.
const QUEUE: usize = 256;

/// Room in the kernel for messages that were not received yet: some thousands.
const RECEIVE_BYTES: i32 = 1 << 20;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Message {
    /// A process runs another program now.
    Exec(u32),
    /// A process ended with this wait status.
    Exit(u32, i32),
}

/// What discovery is told.
#[derive(Debug)]
pub enum ProcessEvent {
    /// An etcd began.
    Began(Box<EtcdProcess>),
    /// A watched process ended with this wait status.
    Ended(u32, i32),
}

/// Processes whose end is told.
#[derive(Debug, Clone, Default)]
pub struct Watched(Arc<Mutex<HashSet<u32>>>);

impl Watched {
    /// Tells the end of this one.
    pub fn add(&self, pid: u32) {
        self.lock().insert(pid);
    }

    /// It has ended.
    pub fn remove(&self, pid: u32) -> bool {
        self.lock().remove(&pid)
    }

    /// Held for a look-up only.
    fn lock(&self) -> MutexGuard<'_, HashSet<u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Listens on a thread of its own, with raised priority where that is allowed: what a process of a moment is can be read
/// only while it lives. `began` is called there for every etcd that begins, before it is told.
///
/// # Errors
/// When the kernel has no process connector, or this process may not listen.
pub fn listen(
    sighter: Sighter,
    watched: Watched,
    began: impl Fn(&EtcdProcess) + Send + 'static,
) -> io::Result<mpsc::Receiver<ProcessEvent>> {
    let socket = open()?;
    let (events, told) = mpsc::channel(QUEUE);
    let run = move || {
        // SAFETY: takes numbers only; zero is the calling thread. Not being allowed to is no fault.
        let _best_effort = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -10) };
        while !events.is_closed() {
            let event = match receive(&socket) {
                Ok(Some(Message::Exec(pid))) => match (sighter.sight(pid), events.try_reserve()) {
                    (Some(process), Ok(room)) => {
                        began(&process);
                        watched.add(pid);
                        room.send(ProcessEvent::Began(Box::new(process)));
                        None
                    }
                    // Without room nothing may have begun that discovery will not end.
                    _ => None,
                },
                Ok(Some(Message::Exit(pid, status))) if watched.remove(pid) => {
                    Some(ProcessEvent::Ended(pid, status))
                }
                Ok(_) => None,
                Err(error) if is_passing(&error) => None,
                Err(error) => {
                    tracing::warn!(%error, "not told of new processes any more: /proc is scanned only");
                    return;
                }
            };
            if let Some(event) = event {
                let _found_by_scanning = events.try_send(event);
            }
        }
    };
    std::thread::Builder::new().name("exec".to_owned()).spawn(run)?;
    Ok(told)
}

/// Messages lost for want of room, an interruption, or a second without one, after which the receiver is looked at.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
        || error.raw_os_error() == Some(libc::ENOBUFS)
}

fn open() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    // SAFETY: takes numbers only.
    let socket = checked(unsafe { libc::socket(libc::AF_NETLINK, kind, NETLINK_CONNECTOR) })?;
    // SAFETY: just opened, and owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    filter(&socket)?;
    set(&socket, libc::SO_RCVTIMEO, &libc::timeval { tv_sec: 1, tv_usec: 0 })?;
    // More than the limit of the system needs CAP_NET_ADMIN, which listening needs as well.
    let _best_effort = set(&socket, libc::SO_RCVBUFFORCE, &RECEIVE_BYTES);
    // SAFETY: all zeros is a valid sockaddr_nl.
    let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    address.nl_family = libc::AF_NETLINK as u16;
    address.nl_groups = CN_PROC;
    let length = size_of_val(&address) as u32;
    // SAFETY: the address is valid for the length given, for the duration of the call.
    checked(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })?;
    let request = listen_request();
    // SAFETY: the buffer is valid for its length, for the duration of the call.
    let sent = unsafe { libc::send(socket.as_raw_fd(), request.as_ptr().cast(), request.len(), 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

/// Sets an option of the socket's own level.
fn set<T>(socket: &OwnedFd, option: i32, value: &T) -> io::Result<()> {
    let length = size_of::<T>() as u32;
    // SAFETY: the value, and what it may point to, is valid for the duration of the call.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            std::ptr::from_ref(value).cast(),
            length,
        )
    };
    checked(outcome).map(drop)
}

fn checked(outcome: i32) -> io::Result<i32> {
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(outcome) }
}

/// `nlmsghdr`, `cn_msg`, and the operation.
fn listen_request() -> Vec<u8> {
    let length = 16 + 20 + 4_u32;
    let mut bytes = Vec::with_capacity(length as usize);
    bytes.extend(length.to_ne_bytes());
    bytes.extend((libc::NLMSG_DONE as u16).to_ne_bytes());
    bytes.extend(0_u16.to_ne_bytes());
    bytes.extend([0_u32, 0, CN_PROC, CN_PROC, 0, 0].iter().flat_map(|word| word.to_ne_bytes()));
    bytes.extend([4_u16, 0].iter().flat_map(|half| half.to_ne_bytes()));
    bytes.extend(LISTEN.to_ne_bytes());
    bytes
}

/// Lets exec and the end of a thread group's leader through. Loads are big-endian, the message is not.
fn filter(socket: &OwnedFd) -> io::Result<()> {
    let load = |at| libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: at };
    let equal = |value: u32, jt, jf| libc::sock_filter { code: 0x15, jt, jf, k: value };
    let answer = |bytes| libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: bytes };
    let to_x = libc::sock_filter { code: 0x07, jt: 0, jf: 0, k: 0 };
    let equals_x = libc::sock_filter { code: 0x1d, jt: 0, jf: 1, k: 0 };
    let mut program = [
        load(WHAT),
        equal(EXEC.to_be(), 5, 0),
        equal(EXIT.to_be(), 0, 5),
        load(TGID),
        to_x,
        load(PID),
        equals_x,
        answer(u32::MAX),
        answer(0),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    set(socket, libc::SO_ATTACH_FILTER, &program)
}

fn receive(socket: &OwnedFd) -> io::Result<Option<Message>> {
    let mut bytes = [0_u8; 256];
    // SAFETY: the buffer is valid for its length, for the duration of the call.
    let count = unsafe { libc::recv(socket.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if count < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(parse(&bytes[..count.unsigned_abs()]))
}

fn parse(bytes: &[u8]) -> Option<Message> {
    let word = |at: u32| {
        let at = at as usize;
        Some(u32::from_ne_bytes(*bytes.get(at..at + 4)?.first_chunk()?))
    };
    let (pid, tgid) = (word(PID)?, word(TGID)?);
    match word(WHAT)? {
        EXEC => Some(Message::Exec(tgid)),
        EXIT if pid == tgid => Some(Message::Exit(tgid, word(CODE)?.cast_signed())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discover::ProcFs;

    #[test]
    fn messages_that_are_short_or_unknown_are_nothing() {
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&[0; 55]), None);
        assert_eq!(parse(&[0; 256]), None);
    }

    #[tokio::test]
    async fn an_etcd_of_a_moment_is_seen_with_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let proc = ProcFs::new("/proc");
        let sighter = Sighter::new(proc, vec![directory.path().to_owned()]).unwrap();
        let (sender, seen) = std::sync::mpsc::channel();
        let began = move |process: &EtcdProcess| drop(sender.send(process.data_dir.clone()));
        let mut told = match listen(sighter, Watched::default(), began) {
            Ok(told) => told,
            Err(error) => {
                eprintln!("skipped: no process connector: {error}");
                return;
            }
        };
        // Called etcd, and gone at once.
        let program = directory.path().join("etcd");
        std::fs::copy("/bin/sh", &program).unwrap();
        let data_dir = directory.path().join("data");
        let flag = format!("--data-dir={}", data_dir.display());
        let ended = async {
            loop {
                match told.recv().await.unwrap() {
                    ProcessEvent::Ended(_, status) => return status,
                    ProcessEvent::Began(process) => assert_eq!(process.data_dir, data_dir),
                }
            }
        };
        let mut child =
            std::process::Command::new(&program).args(["-c", "sleep 0.1; exit 7", &flag]).spawn().unwrap();
        let status = tokio::time::timeout(std::time::Duration::from_secs(20), ended).await.unwrap();
        child.wait().unwrap();
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 7, "{status}");
        assert_eq!(seen.recv().unwrap(), data_dir);
    }
}
