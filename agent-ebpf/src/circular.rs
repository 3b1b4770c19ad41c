//! Appends to the circular arrays, as `etcdmon_agent_ebpf::request` describes. With `EXACT` numbers are given out by an add
//! that returns what was there; kernels before 5.12 have none, and two processors may get the same number then: one of
//! the records is lost, and the reader sees that.

use aya_ebpf::maps::Array;
use etcdmon_agent_ebpf::{
    commit::CommitRecord,
    request::{BEING_WRITTEN, Heads, RequestRecord},
    signal::SignalRecord,
};

use crate::{
    maps::HEADS,
    read::{add, exchange, fetch_add},
};

/// A record that begins with its sequence.
///
/// # Safety
/// The first eight bytes are the sequence, and there is no padding.
pub unsafe trait Numbered: Copy {
    /// Sets the sequence.
    fn set_sequence(&mut self, sequence: u64);
}

// SAFETY: its layout.
unsafe impl Numbered for RequestRecord {
    #[inline(always)]
    fn set_sequence(&mut self, sequence: u64) {
        self.sequence = sequence;
    }
}

// SAFETY: its layout.
unsafe impl Numbered for CommitRecord {
    #[inline(always)]
    fn set_sequence(&mut self, sequence: u64) {
        self.sequence = sequence;
    }
}

// SAFETY: its layout.
unsafe impl Numbered for SignalRecord {
    #[inline(always)]
    fn set_sequence(&mut self, sequence: u64) {
        self.sequence = sequence;
    }
}

/// Writes a record to the next place. `head` chooses the array's count of records.
#[inline(always)]
pub fn append<const EXACT: bool, T: Numbered>(
    array: &Array<T>,
    entries: usize,
    head: impl Fn(*mut Heads) -> *mut u64,
    record: &mut T,
) {
    let Some(heads) = HEADS.get_ptr_mut(0) else { return };
    let head = head(heads);
    // SAFETY: points into the map's value.
    let number = unsafe {
        if EXACT {
            fetch_add(head, 1)
        } else {
            let number = core::ptr::read_volatile(head);
            add(head, 1);
            number
        }
    };
    let Some(place) = array.get_ptr_mut((number & (entries as u64 - 1)) as u32) else { return };
    let sequence = place.cast::<u64>();
    record.set_sequence(BEING_WRITTEN);
    // SAFETY: points into the map's value; whoever reads meanwhile sees by the sequence that it is not whole.
    unsafe {
        if EXACT {
            exchange(sequence, BEING_WRITTEN);
            core::ptr::write_volatile(place, *record);
            exchange(sequence, number + 1);
        } else {
            core::ptr::write_volatile(sequence, BEING_WRITTEN);
            core::ptr::write_volatile(place, *record);
            core::ptr::write_volatile(sequence, number + 1);
        }
    }
}
