//! Parameters of questions about history.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use utoipa::IntoParams;

use super::super::Problem;
use super::super::extract::{self, bad};
use crate::query::{Ask, DEFAULT_POINTS, Plan, Resolution};
use crate::store::Retention;

/// What every question has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Common<'a> {
    pub members: Option<&'a str>,
    pub from: Option<&'a str>,
    pub to: Option<&'a str>,
    pub step: Option<&'a str>,
    pub max_points: Option<i64>,
    pub offset: Option<&'a str>,
    pub compare_from: Option<&'a str>,
    pub format: Option<&'a str>,
}

/// Parameters of one question: its own, and those of all. One definition, since serde can't flatten what comes in a URL.
macro_rules! scope {
    ($(#[$doc:meta])* $name:ident { $($(#[$about:meta])* $field:ident: $outer:ident $(<$inner:ident>)?,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Deserialize, IntoParams)]
        #[into_params(parameter_in = Query)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case")]
        pub struct $name {
            $($(#[$about])* pub $field: $outer $(<$inner>)?,)*
            /// Only these members: 16 hexadecimal digits each, with commas between them.
            members: Option<String>,
            /// Inclusive begin: RFC 3339, Unix seconds, or before now such as `-1h`; an hour before `to` when left out.
            from: Option<String>,
            /// Exclusive end, in the same ways; now when left out.
            to: Option<String>,
            /// Length of a step: seconds, or such as `15s`, `5m`, `1h`. Made longer where what was stored is coarser. Chosen by
            /// `max-points` when left out.
            step: Option<String>,
            /// Most points of a series, 1 to 11000, when `step` is left out; 300 when left out.
            #[param(minimum = 1, maximum = 11000)]
            max_points: Option<i64>,
            /// Compares with a second time, so long before: such as `1d`. Its series have `offset_seconds`, and stand at the steps
            /// of the first.
            offset: Option<String>,
            /// Compares with a second time that begins here; instead of `offset`.
            compare_from: Option<String>,
            /// `json`, `csv` or `arrow`; by the header Accept when left out.
            format: Option<String>,
        }

        impl $name {
            pub fn common(&self) -> Common<'_> {
                Common {
                    members: self.members.as_deref(),
                    from: self.from.as_deref(),
                    to: self.to.as_deref(),
                    step: self.step.as_deref(),
                    max_points: self.max_points,
                    offset: self.offset.as_deref(),
                    compare_from: self.compare_from.as_deref(),
                    format: self.format.as_deref(),
                }
            }
        }
    };
}

scope! {
    /// Which metrics.
    MetricHistory {
        /// Names with commas between them, at most 50; that of a histogram without `_bucket`.
        name: String,
        /// `auto` = by the type of each; `values`; or `growth`, also of gauges that only grow.
        r#as: Option<String>,
        /// Only series with these labels: `label=value`, with commas between them.
        r#where: Option<String>,
    }
}

scope! {
    /// Which syncs.
    LatencyHistory {
        /// Only this file class: `wal`, `backend`, `snapshot`, `defrag`, `directory` or `other`.
        class: Option<String>,
        /// What has series of its own: `member`, `class`, with a comma between them; the rest is merged. `cluster` = all merged.
        /// `member,class` when left out.
        by: Option<String>,
    }
}

scope! {
    /// Which syncs.
    SyncHistory {
        /// Only this file class: `wal`, `backend`, `snapshot`, `defrag`, `directory` or `other`.
        class: Option<String>,
        /// What has series of its own: `member`, `class`, with a comma between them; the rest is merged. `cluster` = all merged.
        /// `member,class` when left out.
        by: Option<String>,
    }
}

scope! {
    /// Which writes.
    WriteHistory {
        /// Only this file class: `wal`, `backend`, `snapshot`, `defrag`, `directory` or `other`.
        class: Option<String>,
        /// What has series of its own: `member`, `class`, with a comma between them; the rest is merged. `cluster` = all merged.
        /// `member,class` when left out.
        by: Option<String>,
    }
}

scope! {
    /// Which culprits.
    IoByOthers {
        /// Only those that held up syncs of this file class: `wal`, `backend`, `snapshot`, `defrag`, `directory` or `other`.
        class: Option<String>,
        /// The so many of each member that syncs waited for longest, 1 to 100; 10 when left out.
        #[param(minimum = 1, maximum = 100)]
        top: Option<u64>,
    }
}

scope! {
    /// Which resources.
    Resources {
        /// `process`, `node`, `disk`, `cgroup`, with commas between them; all when left out.
        group: Option<String>,
    }
}

scope! {
    /// Whose raft.
    RaftHistory {}
}

scope! {
    /// What is compared.
    Comparison {
        /// Clusters by UUID, etcd cluster id or name, with commas between them, at most 20.
        clusters: String,
        /// `metrics`, `latency`, `syncs`, `writes`, `io-others`, `resources` or `raft`.
        of: String,
        /// Names of metrics, for `of=metrics`.
        name: Option<String>,
        /// For `of=metrics`: `auto`, `values` or `growth`.
        r#as: Option<String>,
        /// For `of=metrics`: only series with these labels.
        r#where: Option<String>,
        /// For syncs, writes, latency and `io-others`: only this file class.
        class: Option<String>,
        /// For syncs, writes and latency: what has series of its own.
        by: Option<String>,
        /// For `of=io-others`: the so many worst of each member.
        #[param(minimum = 1, maximum = 100)]
        top: Option<u64>,
        /// For `of=resources`: which groups.
        group: Option<String>,
    }
}

impl Common<'_> {
    /// The plan, and that of the second time if one is asked for.
    pub fn plans(self, retention: &Retention, now: DateTime<Utc>) -> Result<(Plan, Option<Plan>), Problem> {
        let range = extract::range(self.from, self.to, now)?;
        let ask = Ask {
            range,
            step_seconds: extract::span("step", self.step)?.map(|step| step.num_seconds()),
            max_points: self.max_points.unwrap_or(DEFAULT_POINTS),
        };
        let plan = Plan::new(&ask, retention, now).map_err(|error| bad(error.to_string()))?;
        let back = match (extract::span("offset", self.offset)?, self.compare_from) {
            (None, None) => return Ok((plan, None)),
            (Some(_), Some(_)) => return Err(bad("compare-from: there is an offset already")),
            (Some(offset), None) => offset,
            (None, from) => match extract::time("compare-from", from, now)? {
                Some(from) => range.from - from,
                None => return Ok((plan, None)),
            },
        };
        if back < TimeDelta::seconds(1) {
            return Err(bad("compare-from: the second time must lie before the first"));
        }
        let earlier = plan.earlier(back.num_seconds(), retention).ok_or_else(|| {
            let coarse = Resolution::Hour.seconds();
            bad(format!(
                "offset: so long ago values are kept in longer buckets only, which the step is not made of; take a step and an \
                 offset of whole hours ({coarse} s)"
            ))
        })?;
        Ok((plan, Some(earlier)))
    }
}
