//! Memory that was freed goes back to the system, so that a process that runs for months stays as large as what it holds.
//!
//! glibc keeps freed memory in as many arenas as there were threads at once, and moves its limit between its own heap and
//! mappings of the system up to 32 MiB (`mallopt(3)`). What lives for minutes among buffers that live for milliseconds then
//! leaves holes that only grow. Elsewhere than with glibc nothing is done: other allocators return memory by themselves.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// How often what is free is given back. Walking some hundred megabytes of free pieces takes milliseconds.
const EVERY: Duration = Duration::from_secs(30);

/// Larger pieces are mappings of their own: freed, they are gone at once.
#[cfg(target_env = "gnu")]
const LARGE_BYTES: libc::c_int = 256 << 10;

/// Bounds what is kept. Call it before the first thread starts.
pub fn bound() {
    #[cfg(target_env = "gnu")]
    {
        let arenas = std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 8));
        // SAFETY: both take numbers only. What is refused stays as it is.
        let _best_effort = unsafe {
            libc::mallopt(libc::M_ARENA_MAX, arenas as libc::c_int)
                & libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES)
        };
    }
}

/// Gives back every page that holds nothing. Other threads that want memory wait meanwhile, arena by arena.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number only.
    let _nothing_to_give = unsafe { libc::malloc_trim(0) };
}

/// Bytes that the program has asked for and not freed, without what the allocator keeps; 0 where no allocator says that.
pub fn allocated_bytes() -> u64 {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: takes nothing, gives numbers.
        let info = unsafe { libc::mallinfo2() };
        (info.uordblks + info.hblkhd) as u64
    }
    #[cfg(not(target_env = "gnu"))]
    {
        0
    }
}

/// Gives back now and then until `end`.
pub async fn give_back_regularly(end: CancellationToken) {
    while end.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
        // Done when it is done; a runtime that ends stops it.
        let _ended = tokio::task::spawn_blocking(give_back).await;
    }
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Both look at the memory of the whole process.
    static TURN: Mutex<()> = Mutex::new(());

    fn resident_bytes() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").expect("a process reads its own");
        let kilobytes =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
        kilobytes.and_then(|number| number.parse::<usize>().ok()).expect("a number of kB") * 1024
    }

    #[test]
    fn what_small_survivors_hold_back_is_given_back() {
        let _alone = TURN.lock();
        // 64 MiB of buffers with a survivor behind each: the heap can't shrink from its end.
        let mut buffers = Vec::new();
        let mut survivors = Vec::new();
        for number in 0..2_048_usize {
            buffers.push(vec![number as u8; 32 << 10]);
            survivors.push(vec![number as u8; 64]);
        }
        drop(buffers);
        let before = resident_bytes();
        give_back();
        let after = resident_bytes();
        assert!(after + (32 << 20) < before, "{before} → {after}");
        assert_eq!(survivors[9][63], 9);
    }

    #[test]
    fn what_is_freed_is_not_allocated_whatever_the_allocator_keeps() {
        let _alone = TURN.lock();
        let before = allocated_bytes();
        let small: Vec<Vec<u8>> = (0..2_048_usize).map(|number| vec![number as u8; 8 << 10]).collect();
        let large = vec![1_u8; 16 << 20];
        let held = allocated_bytes();
        assert!((32 << 20..40 << 20).contains(&(held - before)), "{before} → {held}");
        drop((small, large));
        assert!(allocated_bytes() < before + (4 << 20), "{before} → {}", allocated_bytes());
    }

    #[test]
    fn a_large_buffer_that_is_freed_is_gone() {
        let _alone = TURN.lock();
        bound();
        let mut survivors = Vec::new();
        let sizes = || (1..=8_usize).map(|megabytes| vec![1_u8; megabytes << 20]);
        let at_rest = resident_bytes();
        for _ in 0..4 {
            let buffers: Vec<_> = sizes().collect();
            survivors.push(Box::new(buffers.len()));
            assert!(resident_bytes() > at_rest + (30 << 20));
        }
        assert!(resident_bytes() < at_rest + (8 << 20), "{at_rest} → {}", resident_bytes());
    }
}
