//! The numbers of the system calls that a write slot looks for: the array `CALL_NUMBERS`, filled by user space before
//! loading, as they differ from machine to machine.

/// Calls that write: write, pwrite64, writev, pwritev, pwritev2. They come first.
pub const WRITES: usize = 5;

/// sync_file_range comes last.
pub const NUMBERS: usize = WRITES + 1;

/// A number that no call has.
pub const NO_CALL: u32 = u32::MAX;
