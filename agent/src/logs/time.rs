//! Times in log lines: RFC 3339 and ISO 8601 with a zone, and local time without one.

use crate::clock::SECOND_NS;

/// When a line says that it was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stamp {
    /// It does not say.
    #[default]
    None,
    /// Unix time in nanoseconds.
    Utc(i64),
    /// Wall time in the zone of whoever wrote it, as if it were UTC.
    Local(i64),
}

/// Zones lie within this of UTC.
const LARGEST_ZONE_NS: i64 = 15 * 3600 * SECOND_NS;

/// Zones are multiples of this.
const ZONE_STEP_NS: i64 = 900 * SECOND_NS;

/// A line that was just read is at most so old, or its clock is not ours: then it is dated by when it was read.
const JUST_READ_NS: i64 = 60 * SECOND_NS;

impl Stamp {
    /// Unix time in nanoseconds. Without a zone the one that brings it nearest before `now_ns` is assumed: 3.4 writes
    /// the local time of its container, which is mostly UTC and not ours.
    pub fn wall_ns(self, now_ns: i64) -> Option<i64> {
        match self {
            Self::None => None,
            Self::Utc(at_ns) => Some(at_ns),
            Self::Local(at_ns) => {
                let behind = now_ns.checked_sub(at_ns)?;
                if behind.abs() > LARGEST_ZONE_NS {
                    return Some(at_ns);
                }
                // A second of slack: text lines of raft have whole seconds only.
                let zone = (behind + SECOND_NS).div_euclid(ZONE_STEP_NS) * ZONE_STEP_NS;
                Some(at_ns + zone)
            }
        }
    }

    /// As [`Self::wall_ns`] for a line that was just read: never in the future, never long ago.
    pub fn wall_of_new_line_ns(self, now_ns: i64) -> i64 {
        match self.wall_ns(now_ns) {
            Some(at_ns) if at_ns <= now_ns && now_ns - at_ns <= JUST_READ_NS => at_ns,
            _ => now_ns,
        }
    }
}

/// Parses `2006-01-02T15:04:05.000Z`, `…+0100`, `…+01:00`, `2006-01-02 15:04:05.000000`, `2006/01/02 15:04:05`.
pub fn parse_stamp(text: &str) -> Option<Stamp> {
    let bytes = text.as_bytes();
    if !text.is_ascii() || bytes.len() < 19 {
        return None;
    }
    let separators = [bytes[4], bytes[7], bytes[10], bytes[13], bytes[16]];
    if !matches!(&separators, [b'-', b'-', b'T' | b' ', b':', b':'] | [b'/', b'/', b' ', b':', b':']) {
        return None;
    }
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let days = days_from_civil(number(0, 4)?, number(5, 7)?, number(8, 10)?)?;
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut rest = &text[19..];
    let mut fraction_ns = 0;
    if let Some(digits) = rest.strip_prefix('.') {
        let count = digits.bytes().take_while(u8::is_ascii_digit).count();
        let kept = &digits[..count.min(9)];
        fraction_ns = kept.parse::<i64>().ok()? * 10_i64.pow(9 - kept.len() as u32);
        rest = &digits[count..];
    }
    let wall_ns = (((days * 24 + hour) * 60 + minute) * 60 + second) * SECOND_NS + fraction_ns;
    Some(match rest {
        "" => Stamp::Local(wall_ns),
        "Z" => Stamp::Utc(wall_ns),
        zone => Stamp::Utc(wall_ns - zone_seconds(zone)? * SECOND_NS),
    })
}

fn zone_seconds(zone: &str) -> Option<i64> {
    let (sign, digits) = match zone.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    let hours: i64 = digits.get(..2)?.parse().ok()?;
    let rest = &digits[2..];
    let minutes: i64 = rest.strip_prefix(':').unwrap_or(rest).parse().ok()?;
    Some(sign * (hours * 60 + minutes) * 60)
}

/// Days since the Unix epoch of a date of the Gregorian calendar (Hinnant's algorithm).
fn days_from_civil(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1970..2200).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let era = year / 400;
    let year_of_era = year - era * 400;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

/// A duration as Go prints it (`1.5s`, `2m3.5s`, `75.942µs`) in nanoseconds.
pub fn parse_duration_ns(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    if rest == "0" {
        return Some(0);
    }
    let mut total = 0.0_f64;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let value: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let units = [
            ("ns", 1.0),
            ("µs", 1e3),
            ("μs", 1e3),
            ("us", 1e3),
            ("ms", 1e6),
            ("s", 1e9),
            ("m", 60e9),
            ("h", 3600e9),
        ];
        let (after, factor) =
            units.iter().find_map(|(unit, factor)| Some((rest.strip_prefix(unit)?, *factor)))?;
        total += value * factor;
        rest = after;
    }
    (total > 0.0 && total < 1e18).then_some(total.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_NS: i64 = 1_795_263_995 * SECOND_NS;

    #[test]
    fn zones_and_fractions_are_read() {
        let utc = |text| match parse_stamp(text) {
            Some(Stamp::Utc(ns)) => ns,
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(utc("1970-01-01T00:00:00Z"), 0);
        assert_eq!(utc("2026-11-21T12:26:35.411Z"), NOW_NS + 411_000_000);
        assert_eq!(utc("2026-11-21T13:26:35.411226+0100"), NOW_NS + 411_226_000);
        assert_eq!(utc("2026-11-21T06:56:35-05:30"), NOW_NS);
        assert_eq!(utc("2026-11-21T12:26:35.1234567891Z"), NOW_NS + 123_456_789);
        assert_eq!(parse_stamp("2026-11-21 12:26:35.411226"), Some(Stamp::Local(NOW_NS + 411_226_000)));
        assert_eq!(parse_stamp("2026/11/21 12:26:35"), Some(Stamp::Local(NOW_NS)));
        assert_eq!(utc("2024-02-29T00:00:00Z"), 1_709_164_800 * SECOND_NS);
    }

    #[test]
    fn garbage_is_no_time() {
        for text in [
            "",
            "2026",
            "2026-13-01T00:00:00Z",
            "2026-01-01T25:00:00Z",
            "2026-01-01T00:00:00x",
            "2026-01-01T00:00:00+",
            "2026-01-01T00:00:00.Z",
            "+026-01-01T00:00:00Z+é",
            "20é6-01-01T00:00:00Z",
            "2026-01-01-00:00:00Z",
        ] {
            assert_eq!(parse_stamp(text), None, "{text}");
        }
    }

    #[test]
    fn a_local_time_gets_the_zone_that_brings_it_nearest() {
        let hour = 3600 * SECOND_NS;
        for zone in [-8 * hour, -hour / 2, 0, 2 * hour, 5 * hour + hour / 2] {
            let wrote = NOW_NS - 3 * SECOND_NS;
            assert_eq!(Stamp::Local(wrote + zone).wall_ns(NOW_NS), Some(wrote), "{zone}");
        }
        let days_ago = NOW_NS - 72 * hour;
        assert_eq!(Stamp::Local(days_ago).wall_ns(NOW_NS), Some(days_ago));
        assert_eq!(Stamp::Utc(NOW_NS + hour).wall_of_new_line_ns(NOW_NS), NOW_NS);
        assert_eq!(Stamp::Utc(NOW_NS - SECOND_NS).wall_of_new_line_ns(NOW_NS), NOW_NS - SECOND_NS);
        assert_eq!(Stamp::None.wall_of_new_line_ns(NOW_NS), NOW_NS);
    }

    #[test]
    fn durations_of_go_are_read() {
        assert_eq!(parse_duration_ns("75.942µs"), Some(75_942));
        assert_eq!(parse_duration_ns("1.002342387s"), Some(1_002_342_387));
        assert_eq!(parse_duration_ns("2m3.5s"), Some(123_500_000_000));
        assert_eq!(parse_duration_ns("1h0m0.5s"), Some(3_600_500_000_000));
        for bad in ["", "now", "5", "s", "1.2.3s", "-1s", "1e5s", "1parsec"] {
            assert_eq!(parse_duration_ns(bad), None, "{bad}");
        }
    }
}
