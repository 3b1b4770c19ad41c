//! Reads of kernel memory at offsets that user space found; the only home of unsafe reads and atomic adds.

use core::intrinsics::{AtomicOrdering, atomic_xadd, atomic_xchg};

use aya_ebpf::helpers::{bpf_get_current_task, bpf_probe_read_kernel};
use etcdmon_agent_ebpf::offset::{FIELDS, Field, MISSING};

/// Written by user space before loading, constant afterwards.
#[unsafe(no_mangle)]
static OFFSETS: [u32; FIELDS] = [MISSING; FIELDS];

/// The offset of a field, or `None` if this kernel does not have it. The verifier knows the value and drops the
/// branches that are not taken.
#[inline(always)]
pub fn offset(field: Field) -> Option<u64> {
    // SAFETY: in bounds by the type of `field`; volatile because user space changes the value before loading.
    let offset = unsafe { core::ptr::read_volatile(&raw const OFFSETS[field as usize]) };
    if offset == MISSING { None } else { Some(offset as u64) }
}

/// The word at an address. `None` if there is no memory.
#[inline(always)]
pub fn word<T>(address: u64) -> Option<T> {
    if address == 0 {
        return None;
    }
    // SAFETY: the helper checks the address and fails on one that can't be read.
    unsafe { bpf_probe_read_kernel(address as *const T) }.ok()
}

/// The field of the structure at `base`. `None` if it can't be read or this kernel does not have it.
#[inline(always)]
pub fn field<T>(base: u64, of: Field) -> Option<T> {
    if base == 0 {
        return None;
    }
    word(base + offset(of)?)
}

/// The current thread's structure.
#[inline(always)]
pub fn current_task() -> u64 {
    // SAFETY: takes nothing, returns an address as a number.
    unsafe { bpf_get_current_task() }
}

/// Adds to a counter in a map.
///
/// # Safety
/// `counter` points into a map value.
#[inline(always)]
pub unsafe fn add(counter: *mut u64, value: u64) {
    // SAFETY: by the contract of this function.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, value) };
}

/// Adds to a counter in a map and returns what it was before.
///
/// # Safety
/// `counter` points into a map value.
#[inline(always)]
pub unsafe fn fetch_add(counter: *mut u64, value: u64) -> u64 {
    // Not relaxed: LLVM 22 makes an add without fetch of a relaxed one and returns what was added.
    // SAFETY: by the contract of this function.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(counter, value) }
}

/// Sets a word in a map, after everything written before and before everything written afterwards. Kernels before 5.12
/// refuse programs that have one.
///
/// # Safety
/// `word` points into a map value.
#[inline(always)]
pub unsafe fn exchange(word: *mut u64, value: u64) -> u64 {
    // SAFETY: by the contract of this function.
    unsafe { atomic_xchg::<u64, { AtomicOrdering::SeqCst }>(word, value) }
}

/// Hides from the compiler what it knows about a value, so that it keeps the bounds checks the verifier needs.
#[inline(always)]
pub fn unknown(value: u64) -> u64 {
    // SAFETY: reads a local variable.
    unsafe { core::ptr::read_volatile(&value) }
}
