//! The block layer's tracepoints (include/trace/events/block.h), by name and with arguments by position. Before 5.11
//! `block_rq_issue`, `block_rq_merge` and `block_getrq` begin with the queue: they have a variant each, as the kernel
//! refuses to attach a program that reads an argument which is not there.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

use crate::device;

/// `block_io_start(struct request *)`, from 6.5 on: in the task that submits.
#[raw_tracepoint(tracepoint = "block_io_start")]
pub fn block_start(context: RawTracePointContext) -> i32 {
    device::begin(context.arg(0));
    0
}

/// `block_getrq(struct bio *)`: in the task that submits, once for each request that is made of a bio.
#[raw_tracepoint(tracepoint = "block_getrq")]
pub fn block_submit(context: RawTracePointContext) -> i32 {
    device::begin_by_bio(context.arg(0));
    0
}

/// `block_getrq(struct request_queue *, struct bio *, int)`.
#[raw_tracepoint(tracepoint = "block_getrq")]
pub fn block_submit_after_queue(context: RawTracePointContext) -> i32 {
    device::begin_by_bio(context.arg(1));
    0
}

/// `block_rq_issue(struct request *)`.
#[raw_tracepoint(tracepoint = "block_rq_issue")]
pub fn block_issue(context: RawTracePointContext) -> i32 {
    device::issue(context.arg(0));
    0
}

/// `block_rq_issue(struct request_queue *, struct request *)`.
#[raw_tracepoint(tracepoint = "block_rq_issue")]
pub fn block_issue_after_queue(context: RawTracePointContext) -> i32 {
    device::issue(context.arg(1));
    0
}

/// `block_rq_merge(struct request *)`: the request that is absorbed.
#[raw_tracepoint(tracepoint = "block_rq_merge")]
pub fn block_merge(context: RawTracePointContext) -> i32 {
    device::merge(context.arg(0));
    0
}

/// `block_rq_merge(struct request_queue *, struct request *)`.
#[raw_tracepoint(tracepoint = "block_rq_merge")]
pub fn block_merge_after_queue(context: RawTracePointContext) -> i32 {
    device::merge(context.arg(1));
    0
}

/// `block_rq_complete(struct request *, blk_status_t or int error, unsigned int nr_bytes)`, in whatever task is current.
#[raw_tracepoint(tracepoint = "block_rq_complete")]
pub fn block_complete(context: RawTracePointContext) -> i32 {
    device::complete::<true>(context.arg(0), context.arg(1), context.arg(2));
    0
}

/// The same for kernels before 5.12.
#[raw_tracepoint(tracepoint = "block_rq_complete")]
pub fn block_complete_inexact(context: RawTracePointContext) -> i32 {
    device::complete::<false>(context.arg(0), context.arg(1), context.arg(2));
    0
}
