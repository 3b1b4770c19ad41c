//! Attach points, one module a kind of hook. Each only finds its arguments and calls [`crate::count`] or
//! [`crate::device`].

mod block;
mod filesystem;
mod journal;
mod signal;
mod slot;
mod syscall;
