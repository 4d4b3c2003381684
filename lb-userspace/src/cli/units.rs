//! Numbers for people.

use jiff::{Timestamp, tz::TimeZone};

pub(crate) use crate::words::{count, plural};

/// A size in binary units: `1.5 KiB`.
pub(crate) fn bytes(value: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if value < 1024 {
        return format!("{value} B");
    }
    let mut scaled = value as f64;
    let mut unit = 0;
    // 1023.95 would be shown as 1024.0.
    while scaled >= 1023.95 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    format!("{scaled:.1} {}", UNITS[unit])
}

/// A duration by its two largest units: `3h 4m`, `7.2s`, `12ms`.
pub(crate) fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    let whole = seconds as u64;
    let (minutes, hours, days) = (whole / 60, whole / 3600, whole / 86_400);
    match whole {
        _ if seconds < 0.9995 => format!("{:.0}ms", seconds * 1000.0),
        _ if seconds < 59.95 => format!("{seconds:.1}s"),
        60..=3599 => format!("{minutes}m {}s", whole % 60),
        3600..=86_399 => format!("{hours}h {}m", minutes % 60),
        86_400.. => format!("{days}d {}h", hours % 24),
        _ => "1m 0s".to_owned(),
    }
}

/// How long ago a time is.
pub(crate) fn since(time: Timestamp, now: Timestamp) -> String {
    duration(now.duration_since(time).as_secs_f64())
}

/// A time in the reader's time zone.
pub(crate) fn time(time: Timestamp) -> String {
    time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// A part of a whole in per cent.
pub(crate) fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    format!("{:.1}%", part as f64 * 100.0 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_never_show_a_unit_too_small() {
        let shown = [0, 1023, 1024, 1536, 1_048_575, 5 << 30, u64::MAX].map(bytes);
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "5.0 GiB", "16.0 EiB"]);
    }

    #[test]
    fn durations_show_two_units() {
        let shown =
            [-1.0, 0.0125, 0.9996, 7.25, 59.96, 60.0, 3599.9, 3661.0, 93_784.0, 864_000.0].map(duration);
        assert_eq!(
            shown,
            ["0ms", "12ms", "1.0s", "7.2s", "1m 0s", "1m 0s", "59m 59s", "1h 1m", "1d 2h", "10d 0h"]
        );
    }

    #[test]
    fn shares_of_nothing_are_none() {
        assert_eq!([share(1, 3), share(0, 0)], ["33.3%", "-"]);
    }
}
