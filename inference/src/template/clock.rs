//! Dates for templates that write today's (`strftime_now`).

/// A moment, in seconds since 1970 (UTC), as Python's `strftime` writes it with this format in the C locale.
/// `None` for a directive that is not known or a moment beyond the year 9999.
pub(super) fn strftime(seconds: u64, format: &str) -> Option<String> {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const WEEKDAYS: [&str; 7] = [
        "Thursday",
        "Friday",
        "Saturday",
        "Sunday",
        "Monday",
        "Tuesday",
        "Wednesday",
    ];
    let Date {
        year,
        month,
        day,
        day_of_year,
        weekday,
    } = date(seconds / 86_400)?;
    let of_day = seconds % 86_400;
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    let month_name = *MONTHS.get(month.checked_sub(1)?)?;
    let weekday_name = *WEEKDAYS.get(weekday)?;
    let short = |name: &'static str| name.get(..3).unwrap_or(name);
    let mut out = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let written = match letters.next()? {
            'Y' => year.to_string(),
            'y' => format!("{:02}", year % 100),
            'm' => format!("{month:02}"),
            'd' => format!("{day:02}"),
            'e' => format!("{day:2}"),
            'j' => format!("{day_of_year:03}"),
            'B' => month_name.to_owned(),
            'b' | 'h' => short(month_name).to_owned(),
            'A' => weekday_name.to_owned(),
            'a' => short(weekday_name).to_owned(),
            'H' => format!("{hour:02}"),
            'M' => format!("{minute:02}"),
            'S' => format!("{second:02}"),
            'F' => format!("{year}-{month:02}-{day:02}"),
            'T' => format!("{hour:02}:{minute:02}:{second:02}"),
            '%' => "%".to_owned(),
            _ => return None,
        };
        out.push_str(&written);
    }
    Some(out)
}

struct Date {
    year: u64,
    month: usize,
    day: u64,
    day_of_year: u64,
    /// 0 is a Thursday, as 1 January 1970 was.
    weekday: usize,
}

/// The date of a day counted from 1 January 1970, a year and a month at a time.
fn date(days: u64) -> Option<Date> {
    let weekday = usize::try_from(days % 7).ok()?;
    let mut left = days;
    for year in 1970..=9999u64 {
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let length = if leap { 366 } else { 365 };
        if let Some(after) = left.checked_sub(length) {
            left = after;
            continue;
        }
        let day_of_year = left.saturating_add(1);
        let february = if leap { 29 } else { 28 };
        let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        for (month, length) in (1..).zip(lengths) {
            match left.checked_sub(length) {
                Some(after) => left = after,
                None => {
                    return Some(Date {
                        year,
                        month,
                        day: left.saturating_add(1),
                        day_of_year,
                        weekday,
                    });
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_python_writes_them() {
        let all = "%Y-%m-%d %H:%M:%S %y %e %j %B %b %A %a 100%%";
        // Python: time.strftime(all, time.gmtime(seconds))
        assert_eq!(
            strftime(1_738_555_506, all).as_deref(),
            Some("2025-02-03 04:05:06 25  3 034 February Feb Monday Mon 100%")
        );
        assert_eq!(
            strftime(951_827_696, all).as_deref(),
            Some("2000-02-29 12:34:56 00 29 060 February Feb Tuesday Tue 100%")
        );
        assert_eq!(strftime(0, "%F %T").as_deref(), Some("1970-01-01 00:00:00"));
        assert_eq!(strftime(0, "%Q"), None);
        assert_eq!(strftime(0, "%"), None);
        assert_eq!(strftime(u64::MAX, "%Y"), None);
    }
}
