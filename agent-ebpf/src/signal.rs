//! A signal to a watched process, as it lies in the circular array `SIGNALS` (read as described in [`crate::request`]).

/// Entries of the array `SIGNALS`, a power of two. Signals that stop or end etcd are few.
pub const SIGNALS: usize = 64;

/// Signals that have a record, as a set of bits by number: those that stop, continue or end a process. The numbers are the
/// same on x86-64 and arm64. Go sends itself SIGURG (23) thousands of times a second: it must cost nothing.
pub const RECORDED: u64 = 1 << INT
    | 1 << QUIT
    | 1 << ABRT
    | 1 << KILL
    | 1 << TERM
    | 1 << CONT
    | 1 << STOP
    | 1 << TSTP
    | 1 << TTIN
    | 1 << TTOU;

const INT: u32 = 2;
const QUIT: u32 = 3;
const ABRT: u32 = 6;
const KILL: u32 = 9;
const TERM: u32 = 15;
const CONT: u32 = 18;
const STOP: u32 = 19;
const TSTP: u32 = 20;
const TTIN: u32 = 21;
const TTOU: u32 = 22;

/// In [`SignalRecord::flags`]: to the whole process, not to one of its threads.
pub const TO_PROCESS: u32 = 1;
/// In [`SignalRecord::flags`]: the kernel sent it by itself (`SEND_SIG_PRIV`): who was running at that moment may have
/// nothing to do with it.
pub const BY_KERNEL: u32 = 2;

/// One signal, when it is generated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SignalRecord {
    /// Number of the record plus one, or [`crate::request::BEING_WRITTEN`].
    pub sequence: u64,
    /// CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// Cgroup of the sender in the default hierarchy.
    pub cgroup: u64,
    /// The process that it is sent to.
    pub process_id: u32,
    /// The process that is running.
    pub sender_process_id: u32,
    /// Number of the signal.
    pub signal: u32,
    /// [`TO_PROCESS`], [`BY_KERNEL`].
    pub flags: u32,
    /// What came of it: `TRACE_SIGNAL_*` (include/trace/events/signal.h), 0 = delivered, 1 = ignored.
    pub result: u32,
    /// Zero.
    pub padding: u32,
    /// Name of the thread that is running.
    pub comm: [u8; 16],
}

/// Words of a [`SignalRecord`].
pub const SIGNAL_WORDS: usize = size_of::<SignalRecord>() / 8;

const _: () = assert!(size_of::<SignalRecord>() == 64, "no padding; the array is sized by this");
const _: () = assert!(SIGNALS.is_power_of_two(), "a number is turned into an index by a mask");
