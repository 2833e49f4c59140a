//! Colours, and how numbers are written for people.

use crate::env::Env;
use anstream::ColorChoice;
use anstyle::{AnsiColor, Style};

/// A verb of something done.
pub const GOOD: Style = AnsiColor::Green.on_default().bold();
/// A warning's first word.
pub const NOTE: Style = AnsiColor::Yellow.on_default().bold();
/// An error's first word.
pub const BAD: Style = AnsiColor::BrightRed.on_default().bold();
/// A hint's first word.
pub const HINT: Style = AnsiColor::BrightCyan.on_default().bold();
/// What matters less.
pub const DIM: Style = Style::new().dimmed();

/// Whether a stream gets colours: as `--color` asks, else as the environment says, else on a terminal.
pub fn choice(asked: Option<bool>, env: &Env, is_terminal: bool) -> ColorChoice {
    let by_itself = !env.no_color && (env.color_forced || is_terminal);
    if asked.unwrap_or(by_itself) {
        ColorChoice::Always
    } else {
        ColorChoice::Never
    }
}

/// A time: `0.42 s`, `4.2 s`, `61 s`, `3 min 20 s`, `2 h 05 min`.
pub fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    match seconds {
        s if s < 0.995 => format!("{s:.2} s"),
        s if s < 9.95 => format!("{s:.1} s"),
        s if s < 99.5 => format!("{s:.0} s"),
        s => {
            let minutes = (s / 60.0).floor();
            let (hours, rest) = ((minutes / 60.0).floor(), minutes % 60.0);
            if hours >= 1.0 {
                format!("{hours:.0} h {rest:02.0} min")
            } else {
                format!("{minutes:.0} min {:02.0} s", (s % 60.0).floor())
            }
        }
    }
}

/// A size in powers of ten: `512 B`, `4.2 kB`, `13.5 GB`.
pub fn size(bytes: u64) -> String {
    let mut amount = bytes as f64;
    let mut units = ["B", "kB", "MB", "GB", "TB"].into_iter();
    let mut unit = units.next().unwrap_or("B");
    for next in units {
        if amount < 999.5 {
            break;
        }
        amount /= 1000.0;
        unit = next;
    }
    if unit == "B" || amount >= 99.95 {
        format!("{amount:.0} {unit}")
    } else {
        format!("{amount:.1} {unit}")
    }
}

/// A number with a comma between its thousands: `67,349`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A number of things: `1 step`, `245 steps`. The plural is the word with an `s`.
pub fn count(number: u64, word: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {word}{plural}", thousands(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(
            [0.004, 0.996, 9.96, 200.9, 7500.0].map(duration),
            ["0.00 s", "1.0 s", "10 s", "3 min 20 s", "2 h 05 min"]
        );
        assert_eq!(
            [999, 1000, 99_960, 13_476_000_000].map(size),
            ["999 B", "1.0 kB", "100 kB", "13.5 GB"]
        );
        assert_eq!(
            [count(1, "step"), count(67_349, "step")],
            ["1 step", "67,349 steps"]
        );
    }

    #[test]
    fn what_is_asked_for_wins_over_the_environment() {
        let env = Env {
            no_color: true,
            color_forced: true,
            ..Env::default()
        };
        assert_eq!(choice(Some(true), &env, false), ColorChoice::Always);
        assert_eq!(choice(None, &env, true), ColorChoice::Never);
        let forced = Env {
            color_forced: true,
            ..Env::default()
        };
        assert_eq!(choice(None, &forced, false), ColorChoice::Always);
        assert_eq!(choice(Some(false), &forced, true), ColorChoice::Never);
        assert_eq!(choice(None, &Env::default(), false), ColorChoice::Never);
    }
}
