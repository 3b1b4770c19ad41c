use super::*;

const HOUR: f64 = 3_600.0;
const DAY: f64 = 24.0 * HOUR;
const MIB: f64 = 1_048_576.0;

/// A sample every five minutes over so many hours.
fn series(hours: f64, value: impl Fn(f64) -> f64) -> Vec<Sample> {
    let count = (hours * 12.0) as u32;
    (0..=count).map(|number| f64::from(number) * 300.0).map(|at| Sample { at, value: value(at) }).collect()
}

fn end(samples: &[Sample]) -> f64 {
    samples.last().map_or(0.0, |sample| sample.at)
}

fn eta(forecast: &Forecast) -> Eta {
    match forecast.outcome {
        Some(Outcome::Eta(eta)) => eta,
        other => panic!("no date but {other:?}, trend {:?}", forecast.trend),
    }
}

/// The highest so far, as a file that gives nothing back.
fn never_falling(samples: &[Sample]) -> Vec<Sample> {
    let mut highest = f64::MIN;
    let highest_so_far = |sample: &Sample| {
        highest = f64::max(highest, sample.value);
        Sample { value: highest, ..*sample }
    };
    samples.iter().map(highest_so_far).collect()
}

#[test]
fn steady_growth_has_an_exact_date() {
    let total = series(24.0, |at| 100.0 * MIB + at / HOUR * MIB);
    let forecast =
        database(Database { total: &total, in_use: &total, quota: Some(172.0 * MIB) }, end(&total));
    let eta = eta(&forecast);
    assert!((eta.mid - 48.0 * HOUR).abs() < 60.0, "{eta:?}");
    assert!(eta.low <= eta.mid && eta.high.is_some_and(|high| high < 49.0 * HOUR), "{eta:?}");
    let trend = forecast.trend.unwrap();
    assert!((trend.slope * DAY - 24.0 * MIB).abs() < 0.01 * MIB && trend.changes == 0.0, "{trend:?}");
}

#[test]
fn saw_teeth_are_followed_by_their_peaks() {
    // Half an hour of old revisions, 20 MiB each time, above a slow growth of 0.5 MiB an hour.
    let in_use =
        series(48.0, |at| 50.0 * MIB + at / HOUR * 0.5 * MIB + (at % 1_800.0) / 1_800.0 * 20.0 * MIB);
    let total = never_falling(&in_use);
    let quota = 130.0 * MIB;
    // Peaks are 20 * 5 / 6 above the live data, whose line meets that after so many hours.
    let hours = (130.0 - 50.0 - 20.0 * 5.0 / 6.0) / 0.5 - 48.0;
    let forecast = database(Database { total: &total, in_use: &in_use, quota: Some(quota) }, end(&total));
    let found = eta(&forecast);
    assert!((found.mid / HOUR - hours).abs() < 0.1 * hours, "{} h instead of {hours} h", found.mid / HOUR);
    assert!(
        found.low / HOUR < hours + 0.01 && found.high.is_none_or(|high| high / HOUR > hours),
        "{found:?}"
    );
    assert!(forecast.trend.unwrap().tooth.is_some_and(|tooth| (1_500.0..2_100.0).contains(&tooth)));
    // From the file alone it is the same.
    let blind = database(Database { total: &total, in_use: &[], quota: Some(quota) }, end(&total));
    assert!((eta(&blind).mid / HOUR - hours).abs() < 0.15 * hours, "{:?}", eta(&blind));
}

#[test]
fn a_file_with_room_of_its_own_still_has_a_date() {
    // An import of 400 MiB was deleted and compacted; what is in use has grown since by 1 MiB an hour.
    let in_use = series(48.0, |at| if at < HOUR { 500.0 * MIB } else { 100.0 * MIB + at / HOUR * MIB });
    let total = series(48.0, |_| 500.0 * MIB);
    let recent = in_use.partition_point(|sample| sample.at < 2.0 * HOUR);
    let database_now =
        Database { total: &total[recent..], in_use: &in_use[recent..], quota: Some(600.0 * MIB) };
    let forecast = database(database_now, end(&total));
    let hours = eta(&forecast).mid / HOUR;
    assert!((hours - 452.0).abs() < 5.0, "{hours} h");
}

#[test]
fn a_defragmentation_is_no_shrinking() {
    let in_use = series(48.0, |at| 100.0 * MIB + at / HOUR * MIB + (at % 1_800.0) / 1_800.0 * 30.0 * MIB);
    let total: Vec<Sample> = never_falling(&in_use)
        .iter()
        .zip(&in_use)
        .map(|(file, used)| {
            let fragments = if file.at < 30.0 * HOUR { 100.0 * MIB } else { 0.0 };
            Sample { value: f64::max(used.value, file.value + fragments), ..*file }
        })
        .collect();
    let forecast =
        database(Database { total: &total, in_use: &in_use, quota: Some(300.0 * MIB) }, end(&total));
    assert_eq!(forecast.resets, [30.0 * HOUR]);
    let hours = eta(&forecast).mid / HOUR;
    assert!((hours - (300.0 - 125.0 - 48.0)).abs() < 8.0, "{hours} h");
    // The file alone since then.
    let blind = database(Database { total: &total, in_use: &[], quota: Some(300.0 * MIB) }, end(&total));
    assert!((eta(&blind).mid / HOUR - 127.0).abs() < 15.0, "{:?}", eta(&blind));
}

#[test]
fn a_daily_rhythm_has_no_say_in_the_slope() {
    let wave = |at: f64| 60.0 * MIB * (std::f64::consts::TAU * at / DAY).sin();
    let in_use = series(120.0, |at| 500.0 * MIB + at / DAY * 10.0 * MIB + wave(at));
    let forecast =
        database(Database { total: &in_use, in_use: &in_use, quota: Some(900.0 * MIB) }, end(&in_use));
    let trend = forecast.trend.unwrap();
    assert_eq!(trend.method, Method::SeasonalTheilSen);
    assert!((trend.slope * DAY - 10.0 * MIB).abs() < 0.1 * MIB, "{}", trend.slope * DAY / MIB);
    // It is full at the top of a day: 400 MiB, less the 50 that it grew and the 60 of the wave.
    let days = eta(&forecast).mid / DAY;
    assert!((days - 29.0).abs() < 1.5, "{days} days");
}

#[test]
fn what_does_not_grow_has_no_date() {
    let in_use = series(72.0, |at| 100.0 * MIB + (at % 1_800.0) / 1_800.0 * 30.0 * MIB);
    let flat = Database { total: &in_use, in_use: &in_use, quota: Some(200.0 * MIB) };
    assert_eq!(database(flat, end(&in_use)).outcome, Some(Outcome::NotGrowing));
    let shrinking = series(72.0, |at| 100.0 * MIB - at / HOUR * MIB);
    let shrinking = Database { total: &shrinking, in_use: &shrinking, quota: Some(200.0 * MIB) };
    assert_eq!(database(shrinking, 72.0 * HOUR).outcome, Some(Outcome::NotGrowing));
}

#[test]
fn growth_that_changed_is_told_from_after_the_change() {
    let total = series(48.0, |at| {
        let hours = at / HOUR;
        MIB * (100.0 + hours + if hours > 24.0 { (hours - 24.0) * 4.0 } else { 0.0 })
    });
    let forecast =
        database(Database { total: &total, in_use: &total, quota: Some(500.0 * MIB) }, end(&total));
    let trend = forecast.trend.unwrap();
    assert!(trend.changes > 0.0 && (trend.slope * HOUR - 5.0 * MIB).abs() < 0.1 * MIB, "{trend:?}");
}

#[test]
fn too_little_says_so_instead_of_a_date() {
    let short = series(0.5, |at| at);
    let of = |samples: &[Sample]| {
        database(Database { total: samples, in_use: samples, quota: Some(1e12) }, 1e9).outcome
    };
    assert!(matches!(of(&short), Some(Outcome::Unknown(TooLittle::Short { .. }))));
    assert_eq!(of(&[]), Some(Outcome::Unknown(TooLittle::Nothing)));
    // Three compactions a day apart are no line.
    let teeth = series(71.0, |at| MIB * (at % DAY) / HOUR);
    assert!(matches!(of(&teeth), Some(Outcome::Unknown(TooLittle::Peaks { .. }))), "{:?}", of(&teeth));
}

#[test]
fn a_far_date_is_not_told() {
    let total = series(6.0, |at| 100.0 * MIB + at / HOUR * MIB);
    let forecast =
        database(Database { total: &total, in_use: &total, quota: Some(8_192.0 * MIB) }, end(&total));
    let Some(Outcome::Beyond { within, low }) = forecast.outcome else { panic!("{:?}", forecast.outcome) };
    assert_eq!((within, low), (60.0 * HOUR, None));
}

#[test]
fn what_is_full_is_full_and_without_a_limit_there_is_no_date() {
    let total = series(6.0, |_| 100.0 * MIB);
    let of = |quota| database(Database { total: &total, in_use: &total, quota }, end(&total)).outcome;
    assert_eq!(of(Some(100.0 * MIB)), Some(Outcome::Reached));
    assert_eq!(of(None), None);
    assert_eq!(of(Some(0.0)), None);
}

#[test]
fn time_without_samples_is_taken_off() {
    let total = series(24.0, |at| 100.0 * MIB + at / HOUR * MIB);
    let of = |now: f64| database(Database { total: &total, in_use: &total, quota: Some(172.0 * MIB) }, now);
    let (then, later) = (eta(&of(end(&total))), eta(&of(end(&total) + 5.0 * HOUR)));
    assert!((then.mid - later.mid - 5.0 * HOUR).abs() < 1.0, "{then:?} {later:?}");
}

#[test]
fn a_disk_fills_by_what_is_left() {
    let available = series(24.0, |at| 1_000.0 * MIB - at / HOUR * 10.0 * MIB);
    let forecast = disk(&available, end(&available));
    assert!((eta(&forecast).mid / HOUR - 76.0).abs() < 1.0, "{:?}", eta(&forecast));
    assert_eq!(disk(&series(6.0, |_| 0.0), 6.0 * HOUR).outcome, Some(Outcome::Reached));
    assert_eq!(disk(&series(24.0, |_| 1e9), DAY).outcome, Some(Outcome::NotGrowing));
}

#[test]
fn what_is_no_number_and_what_lies_ahead_is_left_out() {
    let mut total = series(24.0, |at| 100.0 * MIB + at / HOUR * MIB);
    let now = end(&total);
    let good = database(Database { total: &total, in_use: &[], quota: Some(172.0 * MIB) }, now);
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        total.push(Sample { at: 5.0, value });
        total.push(Sample { at: value, value: 7.0 });
    }
    total.push(Sample { at: now + 1.0, value: 0.0 });
    total.reverse();
    let found = database(Database { total: &total, in_use: &[], quota: Some(172.0 * MIB) }, now);
    assert_eq!(found, good);
}
