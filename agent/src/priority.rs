//! Priorities of the agent's threads: it has to report when CPUs are scarce, which is when it is needed.
//!
//! Niceness and not a real-time class: a thread that never yields in a real-time class takes the CPU from etcd, a nice one
//! takes its share at most, and the agent's own needs are a fraction of that. Against two hogs of nice -20 on its CPU a thread of
//! nice -10 still gets 5 % of it and one of nice -15 14 %; at nice 0 it would be 0.6 %, less than the agent needs.

/// Of the thread that reads the kernel probes: what it misses is lost.
pub const PROBES: i32 = -15;

/// Of everything else, the spool's thread included: what it delays comes later.
pub const REST: i32 = -10;

/// Raises the priority of the calling thread; threads that it starts later inherit it. Where that is not allowed the agent goes
/// on without, and says so.
pub fn raise(niceness: i32) {
    // SAFETY: numbers only; 0 is the calling thread.
    let outcome = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness) };
    if outcome != 0 {
        let error = std::io::Error::last_os_error();
        tracing::info!(niceness, %error, "priority not raised: CAP_SYS_NICE is missing");
    }
}
