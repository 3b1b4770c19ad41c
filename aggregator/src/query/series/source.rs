//! Which tables the rows of a plan come from. Rollups are made some time after their rows came: what they do not have yet is
//! taken from what is finer, down to raw rows, so that no time is missing and none is there twice.

use serde::Deserialize;

use super::super::{Query, QueryError};
use super::plan::{Plan, Resolution};

/// Rows of one table in a stretch of time, Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub resolution: Resolution,
    pub from: i64,
    pub to: i64,
}

/// How far rollups are, Unix seconds: everything before was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Of ten seconds and minutes.
    pub minutes: i64,
    /// Of hours.
    pub hours: i64,
}

#[derive(clickhouse::Row, Deserialize)]
struct Done {
    level: String,
    until: u32,
}

impl Segment {
    /// ` FROM table WHERE at …`.
    pub fn rows(&self, table: &str) -> String {
        let Self { resolution, from, to } = *self;
        // Rollups are made again when rows come late: of each bucket the newest version counts.
        let fresh = if resolution == Resolution::Raw { "" } else { " FINAL" };
        format!(
            " FROM {table}{}{fresh} WHERE at >= toDateTime({from}, 'UTC') AND at < toDateTime({to}, 'UTC')",
            resolution.suffix()
        )
    }
}

/// The stretches of a plan that begins so many seconds earlier.
pub fn segments(plan: &Plan, lead: i64, progress: Progress) -> Vec<Segment> {
    let minutes = progress.minutes;
    let tables: &[(Resolution, i64)] = match plan.resolution {
        Resolution::Raw => &[],
        Resolution::Hour => &[(Resolution::Hour, progress.hours.min(minutes)), (Resolution::Minute, minutes)],
        resolution => &[(resolution, minutes)],
    };
    let (mut from, mut segments) = ((plan.from - lead).max(0), Vec::new());
    for (resolution, until) in tables.iter().copied().chain([(Resolution::Raw, plan.to)]) {
        let to = until.min(plan.to);
        if to > from {
            segments.push(Segment { resolution, from, to });
            from = to;
        }
    }
    segments
}

impl Query {
    /// The stretches of a plan in the tables of `source`: a raw table and its rollups.
    ///
    /// # Errors
    /// When ClickHouse is away, or the query fails.
    pub(super) async fn segments(
        &self,
        source: &'static str,
        plan: &Plan,
        lead: i64,
    ) -> Result<Vec<Segment>, QueryError> {
        if plan.resolution == Resolution::Raw {
            return Ok(segments(plan, lead, Progress::default()));
        }
        let done: Vec<Done> = self
            .select(
                "rollup_progress",
                "SELECT level, toUnixTimestamp(max(done)) AS until FROM rollup_progress \
                 WHERE source = {source:String} GROUP BY level",
            )
            .text("source", source)
            .fetch()
            .await?;
        let of = |level: &str| {
            done.iter().find(|done| done.level == level).map_or(0, |done| i64::from(done.until))
        };
        Ok(segments(plan, lead, Progress { minutes: of("minutes"), hours: of("hours") }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600;

    fn plan(resolution: Resolution) -> Plan {
        Plan { resolution, step: HOUR, from: HOUR, to: 100 * HOUR, now_ns: 0 }
    }

    fn split(plan: &Plan, progress: Progress) -> Vec<(Resolution, i64, i64)> {
        segments(plan, 120, progress).into_iter().map(|it| (it.resolution, it.from, it.to)).collect()
    }

    #[test]
    fn what_rollups_lack_is_taken_from_what_is_finer() {
        let progress = Progress { minutes: 99 * HOUR + 1_740, hours: 99 * HOUR };
        let begin = HOUR - 120;
        let expected = [
            (Resolution::Hour, begin, 99 * HOUR),
            (Resolution::Minute, 99 * HOUR, 99 * HOUR + 1_740),
            (Resolution::Raw, 99 * HOUR + 1_740, 100 * HOUR),
        ];
        assert_eq!(split(&plan(Resolution::Hour), progress), expected);
        let ten = [
            (Resolution::TenSeconds, begin, 99 * HOUR + 1_740),
            (Resolution::Raw, 99 * HOUR + 1_740, 100 * HOUR),
        ];
        assert_eq!(split(&plan(Resolution::TenSeconds), progress), ten);
        assert_eq!(split(&plan(Resolution::Raw), progress), [(Resolution::Raw, begin, 100 * HOUR)]);
    }

    #[test]
    fn a_time_that_is_over_needs_one_table_and_a_store_without_rollups_has_raw_rows() {
        let begin = HOUR - 120;
        let progress = Progress { minutes: 300 * HOUR, hours: 299 * HOUR };
        assert_eq!(split(&plan(Resolution::Hour), progress), [(Resolution::Hour, begin, 100 * HOUR)]);
        let none = Progress::default();
        assert_eq!(split(&plan(Resolution::Hour), none), [(Resolution::Raw, begin, 100 * HOUR)]);
        // Hours never reach further than the minutes that they are made of.
        let odd = Progress { minutes: 50 * HOUR, hours: 60 * HOUR };
        assert_eq!(split(&plan(Resolution::Hour), odd)[0].2, 50 * HOUR);
    }
}
