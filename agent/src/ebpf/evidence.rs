//! From the layouts in the maps to [`crate::autopsy::evidence`].

use etcdmon_agent_ebpf::{
    commit::{COMMIT_WORDS, CommitRecord},
    failure::Failure,
    request::{DISCARD, FLUSH, FUA, META, OPERATION, READ, REQUEST_WORDS, RequestRecord, SYNC, WRITE},
};

use crate::autopsy::evidence::{Commit, Operation, Request};

/// A [`RequestRecord`] as words.
pub(super) type RequestWords = [u64; REQUEST_WORDS];
/// A [`CommitRecord`] as words.
pub(super) type CommitWords = [u64; COMMIT_WORDS];
/// Linux's `blk_status_t` from 1 on (include/linux/blk_types.h) as errno (block/blk-core.c, `blk_errors`).
const STATUS: [i32; 13] = [
    libc::EOPNOTSUPP,
    libc::ETIMEDOUT,
    libc::ENOSPC,
    libc::ENOLINK,
    libc::EREMOTEIO,
    libc::EBADE,
    libc::ENODATA,
    libc::EILSEQ,
    libc::ENOMEM,
    libc::EIO,
    libc::EREMCHG,
    libc::EAGAIN,
    libc::EBUSY,
];

/// A negative errno from what the tracepoint says: an errno itself up to 5.15, a status from 5.16 on.
fn errno(error: i32) -> i32 {
    match usize::try_from(error) {
        Err(_negative) => error,
        Ok(0) => 0,
        Ok(status) => -STATUS.get(status - 1).copied().unwrap_or(libc::EIO),
    }
}

const fn operation(flags: u32, bytes: u32) -> Operation {
    match flags & OPERATION {
        READ => Operation::Read,
        // A flush comes down as a write of nothing.
        WRITE if bytes == 0 && flags & FUA != 0 => Operation::Flush,
        WRITE => Operation::Write,
        FLUSH => Operation::Flush,
        DISCARD => Operation::Discard,
        _ => Operation::Other,
    }
}

/// The type whose words these are.
///
/// # Safety
/// `T` is made of numbers without padding.
pub(super) unsafe fn of_words<T: Copy, const N: usize>(words: [u64; N]) -> T {
    const { assert!(size_of::<T>() == N * 8, "the words of another type") };
    // SAFETY: as many bytes as the type has, every pattern of which is valid by the contract of this function.
    unsafe { std::ptr::read_unaligned(words.as_ptr().cast()) }
}

pub(super) fn request(words: RequestWords) -> Request {
    // SAFETY: numbers without padding, as the type asserts.
    let record: RequestRecord = unsafe { of_words(words) };
    let set = |bits| record.flags & bits != 0;
    Request {
        device: record.device,
        operation: operation(record.flags, record.bytes),
        sync: set(SYNC),
        meta: set(META),
        fua: set(FUA),
        bytes: record.bytes,
        queued_ns: record.queued_ns,
        issued_ns: record.issued_ns,
        completed_ns: record.completed_ns,
        error: errno(record.error),
        thread_id: record.thread_id,
        process_id: record.process_id,
        comm: record.comm,
        cgroup: record.cgroup,
        charged: record.charged,
        inode: record.inode,
    }
}

pub(super) fn commit(words: CommitWords) -> Commit {
    // SAFETY: numbers without padding, as the type asserts.
    let record: CommitRecord = unsafe { of_words(words) };
    Commit {
        device: record.device,
        start_ns: record.start_ns,
        locking_ns: record.locking_ns,
        flushing_ns: record.flushing_ns,
        logging_ns: record.logging_ns,
        end_ns: record.end_ns,
        transaction: record.transaction,
    }
}

/// The disk and the negative errno of a kind of failure.
pub(super) fn failure(words: u64) -> (u32, i32) {
    // SAFETY: numbers without padding, as the type asserts.
    let failure: Failure = unsafe { of_words([words]) };
    (failure.device, errno(failure.error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(flags: u32, bytes: u32, error: i32) -> RequestWords {
        let mut comm = *b"fio\0\0\0\0\0\0\0\0\0\0\0\0\0";
        comm[15] = b'x';
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let half = |at: usize| u64::from_ne_bytes(comm[at..at + 8].try_into().expect("eight bytes"));
        [
            9,
            1,
            2,
            3,
            4,
            5,
            6,
            pair(7 << 20 | 3, bytes),
            pair(10, 11),
            pair(error.cast_unsigned(), flags),
            half(0),
            half(8),
        ]
    }

    #[test]
    fn a_request_is_read_field_by_field() {
        let found = request(words(WRITE | SYNC | 1 << 13, 4096, 0));
        let expected = Request {
            device: 7 << 20 | 3,
            operation: Operation::Write,
            sync: true,
            meta: true,
            fua: false,
            bytes: 4096,
            queued_ns: 1,
            issued_ns: 2,
            completed_ns: 3,
            error: 0,
            thread_id: 10,
            process_id: 11,
            comm: *b"fio\0\0\0\0\0\0\0\0\0\0\0\0x",
            cgroup: 4,
            charged: 5,
            inode: 6,
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn operations_are_told_apart() {
        const PREFLUSH: u32 = 1 << 18;
        let of = |flags, bytes| request(words(flags, bytes, 0)).operation;
        assert_eq!(of(READ, 512), Operation::Read);
        assert_eq!(of(WRITE | PREFLUSH, 4096), Operation::Write);
        assert_eq!(of(WRITE | PREFLUSH, 0), Operation::Flush);
        assert_eq!(of(FLUSH | PREFLUSH, 0), Operation::Flush);
        assert_eq!(of(DISCARD, 4096), Operation::Discard);
        assert_eq!(of(9, 4096), Operation::Other);
        assert!(request(words(WRITE | PREFLUSH, 1, 0)).fua);
    }

    #[test]
    fn errors_of_old_and_new_kernels_are_errno() {
        let of = |error| request(words(READ, 512, error)).error;
        assert_eq!(of(0), 0);
        assert_eq!(of(-5), -libc::EIO);
        assert_eq!(of(10), -libc::EIO);
        assert_eq!(of(3), -libc::ENOSPC);
        assert_eq!(of(7), -libc::ENODATA);
        assert_eq!(of(99), -libc::EIO);
        let failure_of =
            |error: i32| failure(u64::from(7_u32 << 20) | u64::from(error.cast_unsigned()) << 32);
        assert_eq!(failure_of(-5), (7 << 20, -libc::EIO));
        assert_eq!(failure_of(10), (7 << 20, -libc::EIO));
    }

    #[test]
    fn a_commit_is_read_field_by_field() {
        let found = commit([7, 1, 2, 3, 4, 5, u64::from(254_u32 << 20) | 77 << 32]);
        let expected = Commit {
            device: 254 << 20,
            start_ns: 1,
            locking_ns: 2,
            flushing_ns: 3,
            logging_ns: 4,
            end_ns: 5,
            transaction: 77,
        };
        assert_eq!(found, expected);
    }
}
