//! The node agent.

pub mod ebpf;
