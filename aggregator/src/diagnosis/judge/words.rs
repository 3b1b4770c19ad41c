//! Figures for people.

/// A share in percent.
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent > 0.0 && percent < 1.0 { "under 1 %".to_owned() } else { format!("{percent:.0} %") }
}

/// A span of so many nanoseconds.
pub fn span(ns: u64) -> String {
    let ns = ns as f64;
    if ns >= 1e10 {
        format!("{:.0} s", ns / 1e9)
    } else if ns >= 1e9 {
        format!("{:.1} s", ns / 1e9)
    } else if ns >= 1e7 {
        format!("{:.0} ms", ns / 1e6)
    } else if ns >= 1e6 {
        format!("{:.1} ms", ns / 1e6)
    } else {
        format!("{:.0} µs", ns / 1e3)
    }
}

/// So many bytes.
pub fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1_024.0 {
            break;
        }
        (value, unit) = (value / 1_024.0, next);
    }
    if unit == "B" || value >= 100.0 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

/// CPUs, as a number of them.
pub fn cpus(cpus: f64) -> String {
    format!("{cpus:.2} CPUs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        assert_eq!([percent(0.0), percent(0.004), percent(0.713)], ["0 %", "under 1 %", "71 %"]);
        assert_eq!(
            [span(840_000), span(1_500_000), span(212_000_000), span(1_500_000_000), span(90_000_000_000)],
            ["840 µs", "1.5 ms", "212 ms", "1.5 s", "90 s"]
        );
        assert_eq!(
            [bytes(17), bytes(4_096), bytes(155_189_248), bytes(u64::MAX)],
            ["17 B", "4.0 KiB", "148 MiB", "16777216 TiB"]
        );
    }
}
