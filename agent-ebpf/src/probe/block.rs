//! The block layer's tracepoints (include/trace/events/block.h). Each program comes twice: by a typed tracepoint, and by name
//! with arguments by position. Before 5.11 `block_rq_issue`, `block_rq_merge` and `block_getrq` begin with the queue, in later
//! versions of 5.10 only the last one: they have a variant each, as the kernel refuses to attach a program that reads an argument which is not there.

use aya_ebpf::{
    macros::{btf_tracepoint, raw_tracepoint},
    programs::{BtfTracePointContext, RawTracePointContext},
};

use crate::{
    device,
    read::{Checked, Typed},
};

/// `block_io_start(struct request *)`, from 6.5 on: in the task that submits.
#[btf_tracepoint(function = "block_io_start")]
pub fn block_start_typed(context: BtfTracePointContext) -> i32 {
    device::begin::<Typed>(context.arg(0));
    0
}

/// The same by name.
#[raw_tracepoint(tracepoint = "block_io_start")]
pub fn block_start(context: RawTracePointContext) -> i32 {
    device::begin::<Checked>(context.arg(0));
    0
}

/// `block_getrq(struct bio *)`: in the task that submits, once for each request that is made of a bio.
#[btf_tracepoint(function = "block_getrq")]
pub fn block_submit_typed(context: BtfTracePointContext) -> i32 {
    device::begin_by_bio::<Typed>(context.arg(0));
    0
}

/// The same by name.
#[raw_tracepoint(tracepoint = "block_getrq")]
pub fn block_submit(context: RawTracePointContext) -> i32 {
    device::begin_by_bio::<Checked>(context.arg(0));
    0
}

/// `block_getrq(struct request_queue *, struct bio *, int)`.
#[raw_tracepoint(tracepoint = "block_getrq")]
pub fn block_submit_after_queue(context: RawTracePointContext) -> i32 {
    device::begin_by_bio::<Checked>(context.arg(1));
    0
}

/// `block_rq_issue(struct request *)`.
#[btf_tracepoint(function = "block_rq_issue")]
pub fn block_issue_typed(context: BtfTracePointContext) -> i32 {
    device::issue::<Typed>(context.arg(0));
    0
}

/// The same by name.
#[raw_tracepoint(tracepoint = "block_rq_issue")]
pub fn block_issue(context: RawTracePointContext) -> i32 {
    device::issue::<Checked>(context.arg(0));
    0
}

/// `block_rq_issue(struct request_queue *, struct request *)`.
#[raw_tracepoint(tracepoint = "block_rq_issue")]
pub fn block_issue_after_queue(context: RawTracePointContext) -> i32 {
    device::issue::<Checked>(context.arg(1));
    0
}

/// `block_rq_merge(struct request *)`: the request that is absorbed.
#[btf_tracepoint(function = "block_rq_merge")]
pub fn block_merge_typed(context: BtfTracePointContext) -> i32 {
    device::merge::<Typed>(context.arg(0));
    0
}

/// The same by name.
#[raw_tracepoint(tracepoint = "block_rq_merge")]
pub fn block_merge(context: RawTracePointContext) -> i32 {
    device::merge::<Checked>(context.arg(0));
    0
}

/// `block_rq_merge(struct request_queue *, struct request *)`.
#[raw_tracepoint(tracepoint = "block_rq_merge")]
pub fn block_merge_after_queue(context: RawTracePointContext) -> i32 {
    device::merge::<Checked>(context.arg(1));
    0
}

/// `block_rq_complete(struct request *, blk_status_t or int error, unsigned int nr_bytes)`, in whatever task is current.
#[btf_tracepoint(function = "block_rq_complete")]
pub fn block_complete_typed(context: BtfTracePointContext) -> i32 {
    device::complete::<true, Typed>(context.arg(0), context.arg(1), context.arg(2));
    0
}

/// The same by name.
#[raw_tracepoint(tracepoint = "block_rq_complete")]
pub fn block_complete(context: RawTracePointContext) -> i32 {
    device::complete::<true, Checked>(context.arg(0), context.arg(1), context.arg(2));
    0
}

/// The same for kernels before 5.12.
#[raw_tracepoint(tracepoint = "block_rq_complete")]
pub fn block_complete_inexact(context: RawTracePointContext) -> i32 {
    device::complete::<false, Checked>(context.arg(0), context.arg(1), context.arg(2));
    0
}
