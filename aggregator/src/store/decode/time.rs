//! Wall time of facts.

use etcdmon_proto::convert::{undelta_i64, undelta_u64};
use etcdmon_proto::v1;

use super::common::Checker;
use super::{DecodeError, message};

/// 2000-01-01 and 2200-01-01: clocks are wrong sometimes, but not by more than this.
const EARLIEST_NS: i64 = 946_684_800_000_000_000;
const LATEST_NS: i64 = 7_258_118_400_000_000_000;

/// The batch's samples of wall minus monotonic time.
pub struct TimeLine {
    /// (monotonic time, wall minus monotonic), rising by the first.
    bases: Vec<(u64, i64)>,
}

impl TimeLine {
    /// From the batch's time base sections.
    pub fn new(sections: &[v1::Section]) -> Result<Self, DecodeError> {
        const SECTION: &str = "time_base";
        let mut bases = Vec::new();
        for section in sections.iter().filter(|section| section.kind() == v1::SectionKind::TimeBase) {
            let check = Checker::new(SECTION, section);
            let columns: v1::TimeBases = message(SECTION, &section.payload)?;
            let mono = check.column("mono_ns_delta", &columns.mono_ns_delta)?;
            let offset = check.column("wall_minus_mono_ns_delta", &columns.wall_minus_mono_ns_delta)?;
            let mono = undelta_u64("mono_ns_delta", mono).map_err(|source| check.bad(source))?;
            bases.extend(mono.into_iter().zip(undelta_i64(offset)));
        }
        bases.sort_by_key(|(mono, _)| *mono);
        Ok(Self { bases })
    }

    /// Wall time of each of these monotonic times, in nanoseconds: by the nearest earlier base, or the first one for
    /// facts before it.
    pub fn walls(
        &self,
        section: &'static str,
        column: &'static str,
        mono: &[i64],
    ) -> Result<Vec<i64>, DecodeError> {
        if self.bases.is_empty() && !mono.is_empty() {
            return Err(DecodeError::NoTimeBase { section });
        }
        let wall = |(row, mono): (usize, &i64)| {
            let outside = DecodeError::Time { section, column, row };
            let Ok(unsigned) = u64::try_from(*mono) else { return Err(outside) };
            let after = self.bases.partition_point(|(base, _)| *base <= unsigned);
            let (_, offset) = self.bases[after.saturating_sub(1)];
            mono.checked_add(offset).filter(|wall| is_plausible(*wall)).ok_or(outside)
        };
        mono.iter().enumerate().map(wall).collect()
    }
}

/// A second in nanoseconds.
pub const SECOND_NS: i64 = 1_000_000_000;

/// A minute in nanoseconds.
pub const MINUTE_NS: i64 = 60 * SECOND_NS;

/// Wall times of delta-coded counts of `unit_ns` since the Unix epoch.
pub fn counted(
    check: Checker,
    column: &'static str,
    deltas: &[i64],
    unit_ns: i64,
) -> Result<Vec<i64>, DecodeError> {
    let counts = undelta_i64(check.column(column, deltas)?);
    let wall = |(row, count): (usize, i64)| {
        let wall = count.checked_mul(unit_ns).filter(|wall| is_plausible(*wall));
        wall.ok_or(DecodeError::Time { section: check.section, column, row })
    };
    counts.into_iter().enumerate().map(wall).collect()
}

fn is_plausible(wall_ns: i64) -> bool {
    (EARLIEST_NS..LATEST_NS).contains(&wall_ns)
}

/// A wall time that may be absent (0): what is neither is refused.
pub fn optional(check: Checker, column: &'static str, times: &[i64]) -> Result<Vec<i64>, DecodeError> {
    let times = check.column(column, times)?;
    match times.iter().position(|time| *time != 0 && !is_plausible(*time)) {
        Some(row) => Err(DecodeError::Time { section: check.section, column, row }),
        None => Ok(times.to_vec()),
    }
}
