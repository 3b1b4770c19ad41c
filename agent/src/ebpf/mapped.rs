//! A BPF array, mapped: reading costs no syscall and never disturbs the programs.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

/// Words of a mapped array.
#[derive(Debug)]
pub struct Mapped {
    words: NonNull<AtomicU64>,
    length: usize,
}

// SAFETY: the memory is only touched by atomic operations, and stays mapped until the value is dropped.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// Maps the first `length` words of an array with BPF_F_MMAPABLE, to be read.
    ///
    /// # Errors
    /// When the kernel refuses: before Linux 5.5, or for a smaller map.
    pub fn new(map: BorrowedFd<'_>, length: usize) -> io::Result<Self> {
        Self::with(map, length, libc::PROT_READ)
    }

    /// The same, to be changed as well.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn writable(map: BorrowedFd<'_>, length: usize) -> io::Result<Self> {
        Self::with(map, length, libc::PROT_READ | libc::PROT_WRITE)
    }

    fn with(map: BorrowedFd<'_>, length: usize, access: libc::c_int) -> io::Result<Self> {
        // SAFETY: a new shared mapping at an address of the kernel's choice; nothing else is touched.
        let address = unsafe {
            libc::mmap(std::ptr::null_mut(), length * 8, access, libc::MAP_SHARED, map.as_raw_fd(), 0)
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let words =
            NonNull::new(address.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Self { words, length })
    }

    fn at(&self, index: usize) -> Option<&AtomicU64> {
        // SAFETY: within the mapping, aligned, and only ever changed by atomic operations on both sides.
        (index < self.length).then(|| unsafe { self.words.add(index).as_ref() })
    }

    /// The word at an index; 0 outside.
    pub fn word(&self, index: usize) -> u64 {
        self.at(index).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// Sets the word at an index of a writable array if it is `old`.
    pub fn exchange(&self, index: usize, old: u64, new: u64) -> bool {
        self.at(index)
            .is_some_and(|word| word.compare_exchange(old, new, Ordering::SeqCst, Ordering::Relaxed).is_ok())
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, which nothing refers to any more.
        unsafe { libc::munmap(self.words.as_ptr().cast(), self.length * 8) };
    }
}
