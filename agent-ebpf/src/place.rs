//! What is under way, by thread or address: an array of places (`SYNC_PLACES`, `REQUEST_PLACES`, `COMMIT_PLACES`) in front of a hash.
//!
//! To insert into a hash and to remove again costs a program as much as everything else it does; to take a place and to
//! give it back costs three atomic operations. Each key has one place. One whose place is taken by another goes into the
//! hash behind the array; so do all on kernels that refuse the programs which use places.
//!
//! A program takes a free place by setting its `key` to [`BEING_WRITTEN`], writes the value, and sets `key` last. User space
//! maps the array: it has a whole value if it finds the same key before and after it copied the rest. What will not be seen
//! to end, user space gives back by exchanging the key that it found for [`FREE`].

/// Places of an array, a power of two. Syncs and requests under way are some dozens.
pub const PLACES: usize = 1024;

/// The key of a free place.
pub const FREE: u64 = 0;

/// The key of a place that is being written. No thread and no address is this.
pub const BEING_WRITTEN: u64 = u64::MAX;

/// One place.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Place<T> {
    /// [`FREE`], [`BEING_WRITTEN`], or whose it is.
    pub key: u64,
    /// What is under way.
    pub value: T,
}

const _: () =
    assert!(PLACES.is_power_of_two(), "a key is turned into an index by its lowest or highest bits");
