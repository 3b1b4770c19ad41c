//! Signals to watched processes, from the circular array that the programs fill.

use aya::Ebpf;
use etcdmon_agent_ebpf::{
    request::Heads,
    signal::{BY_KERNEL, SIGNAL_WORDS, SIGNALS, SignalRecord, TO_PROCESS},
};

use super::{
    ProbeError,
    circular::{Circular, Position},
    evidence::of_words,
    mapped::Mapped,
    start::{map_error, mapped},
};

const ARRAY: Circular = Circular { entries: SIGNALS, words: SIGNAL_WORDS };

/// A signal that stops, continues or ends a watched process, when it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal {
    /// CLOCK_MONOTONIC, in nanoseconds.
    pub at_ns: u64,
    /// To whom.
    pub process_id: u32,
    /// Its number.
    pub signal: i32,
    /// By whom; 0 = the kernel by itself.
    pub sender_process_id: u32,
    /// Name of the thread that sent it.
    pub sender_comm: [u8; 16],
    /// Its cgroup in the default hierarchy; 0 = unknown.
    pub sender_cgroup: u64,
    /// To the whole process, not to one of its threads.
    pub to_process: bool,
    /// It will never be delivered: its receiver ignores it. SIGCONT continues all the same.
    pub ignored: bool,
}

type SignalWords = [u64; SIGNAL_WORDS];

/// `TRACE_SIGNAL_IGNORED` (include/trace/events/signal.h).
const IGNORED: u32 = 1;

fn signal(words: SignalWords) -> Signal {
    // SAFETY: numbers without padding, as the type asserts.
    let record: SignalRecord = unsafe { of_words(words) };
    let (stop, one_thread) = (record.signal == libc::SIGSTOP as u32, record.flags & TO_PROCESS == 0);
    // What a debugger sends when it attaches looks like the kernel's own (kernel/ptrace.c), but is the debugger's doing.
    let by_kernel = record.flags & BY_KERNEL != 0 && !(stop && one_thread);
    Signal {
        at_ns: record.at_ns,
        process_id: record.process_id,
        signal: record.signal.cast_signed(),
        // Whoever was running then only happened to.
        sender_process_id: if by_kernel { 0 } else { record.sender_process_id },
        sender_comm: if by_kernel { *b"kernel\0\0\0\0\0\0\0\0\0\0" } else { record.comm },
        sender_cgroup: if by_kernel { 0 } else { record.cgroup },
        to_process: record.flags & TO_PROCESS != 0,
        ignored: record.result == IGNORED,
    }
}

/// The array.
#[derive(Debug)]
pub(super) struct Signals {
    records: Mapped,
}

impl Signals {
    pub fn new(ebpf: &mut Ebpf) -> Result<Self, ProbeError> {
        let map = ebpf.take_map("SIGNALS").ok_or_else(|| map_error("SIGNALS", "not in the object"))?;
        Ok(Self { records: mapped(map, "SIGNALS", SIGNALS * SIGNAL_WORDS)? })
    }

    pub fn read(&self, heads: &Mapped, since: Position, into: &mut Vec<Signal>) -> Position {
        let head = heads.word(std::mem::offset_of!(Heads, signals) / 8);
        ARRAY.read(
            head,
            since,
            |index| self.records.word(index),
            |words| into.extend(SignalWords::try_from(words).ok().map(signal)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(flags: u32, result: u32) -> SignalWords {
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        [
            1,
            5_000,
            44,
            pair(700, 600),
            pair(19, flags),
            pair(result, 0),
            u64::from_ne_bytes(*b"bash\0\0\0\0"),
            0,
        ]
    }

    #[test]
    fn a_signal_is_read_field_by_field() {
        let expected = Signal {
            at_ns: 5_000,
            process_id: 700,
            signal: libc::SIGSTOP,
            sender_process_id: 600,
            sender_comm: *b"bash\0\0\0\0\0\0\0\0\0\0\0\0",
            sender_cgroup: 44,
            to_process: true,
            ignored: false,
        };
        assert_eq!(signal(words(TO_PROCESS, 0)), expected);
        assert_eq!(signal(words(0, 1)), Signal { to_process: false, ignored: true, ..expected });
    }

    #[test]
    fn nobody_is_named_for_what_the_kernel_sends() {
        let found = signal(words(BY_KERNEL | TO_PROCESS, 0));
        assert_eq!((found.sender_process_id, found.sender_cgroup), (0, 0));
        assert_eq!(&found.sender_comm[..7], b"kernel\0");
    }

    #[test]
    fn a_debugger_that_attaches_is_named() {
        assert_eq!(signal(words(BY_KERNEL, 0)).sender_process_id, 600);
    }
}
