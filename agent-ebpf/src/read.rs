//! Reads of kernel memory at offsets that user space found; the only home of unsafe reads and atomic operations.

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd, atomic_xchg};

use aya_ebpf::helpers::{bpf_get_current_task, bpf_probe_read_kernel, generated::bpf_get_current_task_btf};
use etcdmon_agent_ebpf::offset::{FIELDS, Field, MISSING};

use crate::maps::LOSS;

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

/// How a program reads the kernel's structures.
pub trait Read {
    /// Whether the kernel is one whose programs may use places: it has every atomic operation.
    const USES_PLACES: bool;

    /// The word at an address that is not 0. `None` if it can't be read.
    fn word<T: Copy>(address: u64) -> Option<T>;

    /// The current thread's structure.
    fn current_task() -> u64;

    /// A number that stands for an address, the same one each time, with which can be computed.
    fn number_of(address: u64) -> u64;

    /// The field of the structure at `base`. `None` if it can't be read or this kernel does not have it.
    #[inline(always)]
    fn field<T: Copy>(base: u64, of: Field) -> Option<T> {
        if base == 0 {
            return None;
        }
        Self::word(base + offset(of)?)
    }
}

/// By a helper that checks each address. Any program may, of any address.
pub struct Checked;

impl Read for Checked {
    const USES_PLACES: bool = false;

    #[inline(always)]
    fn word<T: Copy>(address: u64) -> Option<T> {
        if address == 0 {
            return None;
        }
        // SAFETY: the helper checks the address and fails on one that can't be read.
        unsafe { bpf_probe_read_kernel(address as *const T) }.ok()
    }

    #[inline(always)]
    fn current_task() -> u64 {
        // SAFETY: takes nothing, returns an address as a number.
        unsafe { bpf_get_current_task() }
    }

    #[inline(always)]
    fn number_of(address: u64) -> u64 {
        address
    }
}

/// By plain loads: of structures whose type the verifier knows, which are the arguments of a typed tracepoint, the current
/// task, and what their pointers to structures lead to. Any other program is refused. From 5.12 on, for places.
pub struct Typed;

impl Read for Typed {
    const USES_PLACES: bool = true;

    #[inline(always)]
    fn word<T: Copy>(address: u64) -> Option<T> {
        // SAFETY: the verifier knows the structure that lies there; where there is no memory the kernel reads zeros.
        Some(unsafe { core::ptr::read_volatile(address as *const T) })
    }

    #[inline(always)]
    fn current_task() -> u64 {
        // SAFETY: takes nothing; the address stays valid while the program runs.
        unsafe { bpf_get_current_task_btf() as u64 }
    }

    #[inline(always)]
    fn number_of(address: u64) -> u64 {
        // The verifier lets nobody compute with an address; the difference of two is a number to it.
        match LOSS.get_ptr(0) {
            Some(fixed) => address.wrapping_sub(fixed as u64),
            None => 0,
        }
    }
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

/// Sets a word in a map if it is `old`, and returns what it was. Kernels before 5.12 refuse programs that have one.
///
/// # Safety
/// `word` points into a map value.
#[inline(always)]
pub unsafe fn compare_exchange(word: *mut u64, old: u64, new: u64) -> u64 {
    // SAFETY: by the contract of this function.
    unsafe { atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(word, old, new).0 }
}

/// Hides from the compiler what it knows about a value, so that it keeps the bounds checks the verifier needs.
#[inline(always)]
pub fn unknown(value: u64) -> u64 {
    // SAFETY: reads a local variable.
    unsafe { core::ptr::read_volatile(&value) }
}
