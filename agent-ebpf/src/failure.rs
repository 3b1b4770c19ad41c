//! Requests that ended with an error: the hash `FAILURES`, from [`Failure`] to how many there were.

/// Elements of `FAILURES`: kinds of errors on watched disks. What finds no room is counted as lost.
pub const FAILURES: usize = 256;

/// A kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Failure {
    /// The disk, encoded as (major << 20) | minor.
    pub device: u32,
    /// As in [`crate::request::RequestRecord::error`].
    pub error: i32,
}

const _: () = assert!(size_of::<Failure>() == 8, "no padding");
