//! Records of single syncs: those that were slow, and the sample.

use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use etcdmon_agent_ebpf::record as kernel;
use etcdmon_proto::v1::{FileClass, SyncReason};

/// One sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncRecord {
    /// The process, in the initial pid namespace.
    pub pid: u32,
    /// The thread, in the initial pid namespace.
    pub thread_id: u32,
    /// What kind of file was synced.
    pub class: FileClass,
    /// Why there is a record.
    pub reason: SyncReason,
    /// Begin on CLOCK_MONOTONIC, in nanoseconds.
    pub start_mono_ns: u64,
    /// End minus begin.
    pub latency: Duration,
    /// Time the thread waited for a CPU meanwhile.
    pub run_delay: Duration,
    /// Time the thread ran on a CPU meanwhile, with an error of up to a tick if it moved to another CPU; `None` if this
    /// kernel does not tell.
    pub run_time: Option<Duration>,
    /// Bytes written to that file since its last sync began.
    pub written_bytes: u64,
    /// The file's inode number.
    pub inode: u64,
    /// The filesystem's device, encoded as (major << 20) | minor.
    pub device: u32,
    /// 0 or a negative errno.
    pub result: i32,
}

impl SyncRecord {
    /// From the bytes in the ring. `None` if they are not a record.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != size_of::<kernel::SyncRecord>() {
            return None;
        }
        // SAFETY: as many bytes as the type has, of which every pattern is valid: it is made of numbers.
        let raw: kernel::SyncRecord = unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) };
        let reason = match raw.reason {
            reason if reason == kernel::Reason::Slow as u8 => SyncReason::Slow,
            reason if reason == kernel::Reason::Sample as u8 => SyncReason::Sample,
            _ => return None,
        };
        Some(Self {
            pid: raw.process_id,
            thread_id: raw.thread_id,
            class: *FileClass::ALL.get(usize::from(raw.class))?,
            reason,
            start_mono_ns: raw.start_ns,
            latency: Duration::from_nanos(raw.latency_ns),
            run_delay: Duration::from_nanos(raw.run_delay_ns),
            run_time: (raw.run_time_ns != kernel::RUN_TIME_UNKNOWN)
                .then(|| Duration::from_nanos(u64::from(raw.run_time_ns))),
            written_bytes: raw.written_bytes,
            inode: raw.inode,
            device: raw.device,
            result: raw.result,
        })
    }
}

/// The reading end of the ring. It is never woken: drain it on a timer, from a thread of its own.
pub struct Records {
    ring: RingBuf<MapData>,
    log: Option<EbpfLogger<&'static dyn log::Log>>,
    malformed: u64,
}

impl std::fmt::Debug for Records {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Records").field("malformed", &self.malformed).finish_non_exhaustive()
    }
}

impl Records {
    pub(super) const fn new(ring: RingBuf<MapData>, log: Option<EbpfLogger<&'static dyn log::Log>>) -> Self {
        Self { ring, log, malformed: 0 }
    }

    /// Hands over every record that is there, in the order in which the syncs ended, and says how many there were.
    /// Never waits.
    pub fn drain(&mut self, mut each: impl FnMut(SyncRecord)) -> usize {
        let mut count = 0;
        while let Some(bytes) = self.ring.next() {
            match SyncRecord::from_bytes(&bytes) {
                Some(record) => {
                    each(record);
                    count += 1;
                }
                None => self.malformed += 1,
            }
        }
        if let Some(log) = &mut self.log {
            log.flush();
        }
        count
    }

    /// Entries of the ring that were no records: programs and agent are not of the same version.
    pub const fn malformed(&self) -> u64 {
        self.malformed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(class: u8, reason: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [1_000_u64, 2_000, 300, 4_096, 77] {
            bytes.extend(word.to_ne_bytes());
        }
        for word in [12_u32, 7 << 20, (-5_i32).cast_unsigned()] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend([3, class, reason, 0]);
        bytes.extend(11_u32.to_ne_bytes());
        bytes.extend(150_u32.to_ne_bytes());
        bytes
    }

    #[test]
    fn a_record_is_read_field_by_field() {
        let record = SyncRecord::from_bytes(&bytes(1, 2)).expect("a record");
        let expected = SyncRecord {
            pid: 11,
            thread_id: 12,
            class: FileClass::Backend,
            reason: SyncReason::Sample,
            start_mono_ns: 1_000,
            latency: Duration::from_nanos(2_000),
            run_delay: Duration::from_nanos(300),
            run_time: Some(Duration::from_nanos(150)),
            written_bytes: 4_096,
            inode: 77,
            device: 7 << 20,
            result: -5,
        };
        assert_eq!(record, expected);
    }

    #[test]
    fn a_run_time_that_is_not_known_is_none() {
        let mut bytes = bytes(1, 2);
        let at = bytes.len() - 4;
        bytes[at..].copy_from_slice(&kernel::RUN_TIME_UNKNOWN.to_ne_bytes());
        assert_eq!(SyncRecord::from_bytes(&bytes).map(|record| record.run_time), Some(None));
    }

    #[test]
    fn what_is_not_a_record_is_refused() {
        assert_eq!(SyncRecord::from_bytes(&[]), None);
        assert_eq!(SyncRecord::from_bytes(&bytes(1, 1)[1..]), None);
        assert_eq!(SyncRecord::from_bytes(&bytes(6, 1)), None);
        assert_eq!(SyncRecord::from_bytes(&bytes(1, 0)), None);
        assert_eq!(SyncRecord::from_bytes(&bytes(1, 9)), None);
    }
}
