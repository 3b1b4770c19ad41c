//! Attach points, one module a kind of hook. Each only finds its arguments and calls [`crate::count`].

mod filesystem;
mod slot;
mod syscall;
