//! Takes, finds and gives back places, as `etcdmon_agent_ebpf::place` describes.

use aya_ebpf::maps::Array;
use etcdmon_agent_ebpf::place::{BEING_WRITTEN, FREE, PLACES, Place};

use crate::read::{Read, compare_exchange, exchange};

/// What came of putting something into its place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It is there.
    New,
    /// It is there in place of what the same key had there: the end of that one was not seen.
    Again,
    /// The place is another one's.
    Taken,
}

/// The index of what lies at an address. Addresses of one kind differ by much the same: they are spread.
#[inline(always)]
pub fn place_of<R: Read>(address: u64) -> u32 {
    (R::number_of(address) as u32).wrapping_mul(0x9e37_79b1) >> (u32::BITS - PLACES.ilog2())
}

/// Puts something into its place.
#[inline(always)]
pub fn put<T: Copy>(places: &Array<Place<T>>, index: u32, key: u64, value: &T) -> Put {
    let Some(place) = places.get_ptr_mut(index) else { return Put::Taken };
    // SAFETY: points into the map's value. Nobody else writes to a place that is being written, and of one key there is one
    // begin at a time.
    unsafe {
        let word = &raw mut (*place).key;
        let holder = compare_exchange(word, FREE, BEING_WRITTEN);
        if holder != FREE {
            if holder != key {
                return Put::Taken;
            }
            exchange(word, BEING_WRITTEN);
        }
        core::ptr::write_volatile(&raw mut (*place).value, *value);
        exchange(word, key);
        if holder == FREE { Put::New } else { Put::Again }
    }
}

/// The place with this key.
#[inline(always)]
pub fn find<T>(places: &Array<Place<T>>, index: u32, key: u64) -> Option<*mut Place<T>> {
    let place = places.get_ptr_mut(index)?;
    // SAFETY: points into the map's value.
    if unsafe { core::ptr::read_volatile(&raw const (*place).key) } == key { Some(place) } else { None }
}

/// Gives a place back.
///
/// # Safety
/// It was found by its key, which is the caller's.
#[inline(always)]
pub unsafe fn give_back<T>(place: *mut Place<T>) {
    // SAFETY: points into the map's value.
    unsafe { exchange(&raw mut (*place).key, FREE) };
}
