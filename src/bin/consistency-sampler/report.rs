//! HTML reports: one file that holds its curves and pictures, for any browser, without a network.

use std::fmt::{self, Write as _};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use consistency_sampler::Result;
use consistency_sampler::file::replace;

const STYLE: &str = include_str!("report.css");
/// Width of the page's column, in CSS pixels.
const PAGE: u32 = 960;
/// The most classes of a table of confusion.
const CONFUSION: usize = 30;

/// A report that grows. It escapes every text that it takes.
pub struct Report {
    html: String,
}

impl Report {
    /// A report with a title, and a line below it.
    pub fn new(title: &str, line: &str) -> Self {
        let policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'";
        let (title, line) = (Escaped(title), Escaped(line));
        let html = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n\
             </head>\n<body>\n<main>\n<h1>{title}</h1>\n<p>{line}</p>\n"
        );
        Self { html }
    }

    fn push(&mut self, html: fmt::Arguments<'_>) {
        self.html.write_fmt(html).expect("a String takes everything");
    }

    pub fn heading(&mut self, text: &str) {
        self.push(format_args!("<h2>{}</h2>\n", Escaped(text)));
    }

    /// A table with the names of its columns, if they need any; the first cell of a row names it.
    pub fn table<const N: usize>(&mut self, head: &[&str], rows: &[[String; N]]) {
        self.push(format_args!("<div class=\"wide\"><table>\n"));
        if !head.is_empty() {
            self.push(format_args!("<tr class=\"head\">"));
            head.iter().for_each(|name| self.push(format_args!("<th scope=\"col\">{}</th>", Escaped(name))));
            self.push(format_args!("</tr>\n"));
        }
        for row in rows {
            self.push(format_args!("<tr>"));
            for (column, cell) in row.iter().enumerate() {
                let cell = Escaped(cell);
                match column {
                    0 => self.push(format_args!("<th scope=\"row\">{cell}</th>")),
                    _ => self.push(format_args!("<td>{cell}</td>")),
                }
            }
            self.push(format_args!("</tr>\n"));
        }
        self.push(format_args!("</table></div>\n"));
    }

    /// A table that is folded under a line.
    pub fn folded_table<const N: usize>(&mut self, line: &str, head: &[&str], rows: &[[String; N]]) {
        self.push(format_args!("<details>\n<summary>{}</summary>\n", Escaped(line)));
        self.table(head, rows);
        self.push(format_args!("</details>\n"));
    }

    /// How often samples of each class (row) were taken for each class (column): `counts` (C, C). Shares of rows are
    /// coloured. Nothing is shown of more than [`CONFUSION`] classes.
    pub fn confusion(&mut self, classes: &[String], counts: &[usize]) {
        if classes.len() > CONFUSION {
            return;
        }
        self.heading("Confusion of classes");
        let caption = "Rows are classes that were asked for, columns what the classifier takes the samples for.";
        self.push(format_args!("<p>{caption}</p>\n"));
        self.push(format_args!("<div class=\"wide\"><table class=\"matrix\">\n<tr><td></td>"));
        classes
            .iter()
            .for_each(|name| self.push(format_args!("<th scope=\"col\"><span>{}</span></th>", Escaped(name))));
        for (name, row) in classes.iter().zip(counts.chunks_exact(classes.len())) {
            self.push(format_args!("</tr>\n<tr><th scope=\"row\">{}</th>", Escaped(name)));
            let sum = row.iter().sum::<usize>().max(1);
            for &count in row {
                let percent = 100 * count / sum;
                self.push(format_args!("<td style=\"--share:{percent}%\">{count}</td>"));
            }
        }
        self.push(format_args!("</tr>\n</table></div>\n"));
    }

    /// A PNG file's bytes, enlarged by a whole number as far as the page is wide.
    pub fn picture(&mut self, caption: &str, png: &[u8]) {
        let side = |at: usize| png.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
        let (width, height) = (side(16), side(20)); // of the chunk IHDR, which comes first
        let scale = (PAGE / width.max(1)).clamp(1, 4);
        let (caption, data) = (Escaped(caption), STANDARD.encode(png));
        let (width, height) = (width.saturating_mul(scale), height.saturating_mul(scale));
        self.push(format_args!(
            "<figure><figcaption>{caption}</figcaption><img alt=\"{caption}\" width=\"{width}\" height=\"{height}\" \
             src=\"data:image/png;base64,{data}\"></figure>\n"
        ));
    }

    pub fn chart(&mut self, chart: &Chart<'_>) {
        self.push(format_args!("{chart}"));
    }

    /// Writes the file.
    pub fn write(&self, path: &Path) -> Result<()> {
        replace(path, format!("{}</main>\n</body>\n</html>\n", self.html).as_bytes())
    }
}

/// A text as HTML, in an element or in quotes.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            c => f.write_char(c),
        })
    }
}

/// Points (x, y) with ascending x.
pub type Line = Vec<(f64, f64)>;

/// Curves over iterations.
pub struct Chart<'a> {
    pub caption: &'a str,
    /// Name, if it needs one, and parts of each curve. The last curve is the strongest.
    pub curves: Vec<(&'a str, Vec<Line>)>,
    /// Ends of the x axis.
    pub range: [f64; 2],
    /// Values of x with a name, ascending. A name is left out where it would lie over the one before.
    pub marks: Vec<(f64, String)>,
    /// Whether the y axis begins at 0. Otherwise it is logarithmic where all values are positive.
    pub from_zero: bool,
}

/// Size of a chart and margins of its plot, in units of the SVG.
const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 24.0;
const BOTTOM: f64 = 48.0;

impl fmt::Display for Chart<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.curves.iter().flat_map(|(_, parts)| parts.iter().flatten()).map(|&(_, y)| y);
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), y| (l.min(y), h.max(y)));
        let vertical = Axis::around(if self.from_zero { 0.0 } else { low }, high, !self.from_zero && low > 0.0);
        let horizontal = Axis { low: self.range[0], high: self.range[1], is_log: false };
        let x = |v: f64| LEFT + horizontal.place(v) * (WIDTH - LEFT - RIGHT);
        let y = |v: f64| HEIGHT - BOTTOM - vertical.place(v) * (HEIGHT - TOP - BOTTOM);
        let (right, bottom, caption) = (WIDTH - RIGHT, HEIGHT - BOTTOM, Escaped(self.caption));

        let style = |i: usize| if i + 1 == self.curves.len() { "strong" } else { "faint" };
        write!(f, "<figure><figcaption>{caption}")?;
        for (i, (name, _)) in self.curves.iter().enumerate().filter(|(_, (name, _))| !name.is_empty()) {
            write!(f, " <span class=\"key {}\">{}</span>", style(i), Escaped(name))?;
        }
        writeln!(f, "</figcaption><div class=\"wide\">")?;
        writeln!(f, "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{caption}\">")?;
        for tick in vertical.ticks() {
            let (at, text) = (y(tick), number(tick));
            writeln!(f, "<path class=\"grid\" d=\"M{LEFT},{at:.1}H{right}\"/>")?;
            writeln!(f, "<text class=\"y\" x=\"{:.1}\" y=\"{:.1}\">{text}</text>", LEFT - 8.0, at + 4.0)?;
        }
        for tick in horizontal.ticks() {
            let (at, text) = (x(tick), number(tick));
            writeln!(f, "<path class=\"axis\" d=\"M{at:.1},{bottom}v5\"/>")?;
            writeln!(f, "<text class=\"x\" x=\"{at:.1}\" y=\"{:.1}\">{text}</text>", bottom + 19.0)?;
        }
        let middle = f64::midpoint(LEFT, right);
        writeln!(f, "<text class=\"x\" x=\"{middle:.1}\" y=\"{:.1}\">iteration</text>", bottom + 38.0)?;
        let mut free = 0.0;
        for (value, name) in &self.marks {
            let (at, name) = (x(*value), Escaped(name));
            writeln!(f, "<path class=\"mark\" d=\"M{at:.1},{TOP}V{bottom}\"/>")?;
            if at >= free {
                writeln!(f, "<text x=\"{at:.1}\" y=\"{:.1}\">{name}</text>", TOP - 8.0)?;
                free = at + 60.0;
            }
        }
        writeln!(f, "<path class=\"axis\" d=\"M{LEFT},{TOP}V{bottom}H{right}\"/>")?;
        for (i, (_, parts)) in self.curves.iter().enumerate() {
            for part in parts.iter().filter(|part| !part.is_empty()) {
                write!(f, "<path class=\"{}\" d=\"", style(i))?;
                for (at, &(a, b)) in part.iter().enumerate() {
                    write!(f, "{}{:.1},{:.1}", if at == 0 { 'M' } else { 'L' }, x(a), y(b))?;
                }
                writeln!(f, "h0\"/>")?; // so that one point is a dot
            }
        }
        writeln!(f, "</svg></div></figure>")
    }
}

/// An axis of a chart.
#[derive(Debug, Clone, Copy)]
struct Axis {
    low: f64,
    high: f64,
    is_log: bool,
}

impl Axis {
    /// An axis that shows `low` to `high`, with some room for equal ends.
    fn around(low: f64, high: f64, is_log: bool) -> Self {
        match high - low > 1e-6 * high.abs() {
            true => Self { low, high, is_log },
            false if low == 0.0 => Self { low, high: 1.0, is_log },
            false => Self { low: low - 0.1 * low.abs(), high: high + 0.1 * high.abs(), is_log },
        }
    }

    /// Where a value is: from 0, the low end, to 1.
    fn place(&self, v: f64) -> f64 {
        let scale = |v: f64| if self.is_log { v.ln() } else { v };
        (scale(v) - scale(self.low)) / (scale(self.high) - scale(self.low))
    }

    /// Round values within the axis: of a logarithmic one 1, 2 and 5 times powers of ten, or these powers alone if that
    /// makes too many; where that makes fewer than three, and of a linear one, multiples of such a value.
    fn ticks(&self) -> Vec<f64> {
        const MOST: usize = 8;
        let within = |v: &f64| (self.low..=self.high).contains(v);
        if self.is_log {
            let ticks = |factors: &[i64]| -> Vec<f64> {
                let all = (-40..40).flat_map(|exponent| factors.iter().map(move |&factor| decimal(factor, exponent)));
                all.filter(within).collect()
            };
            let fine = ticks(&[1, 2, 5]);
            match fine.len() {
                ..3 => {}
                3..=MOST => return fine,
                _ => return ticks(&[1]),
            }
        }
        let steps = (-40..40).flat_map(|exponent| [1, 2, 5].map(|factor| (factor, exponent)));
        let fits = |&(factor, exponent): &(i64, i32)| (self.high - self.low) / decimal(factor, exponent) < MOST as f64;
        let Some((factor, exponent)) = steps.into_iter().find(fits) else { return vec![] };
        let first = (self.low / decimal(factor, exponent)).ceil() as i64;
        (first..=first + MOST as i64).map(|k| decimal(k * factor, exponent)).filter(within).collect()
    }
}

/// `factor`·10^`exponent`, the nearest to it.
fn decimal(factor: i64, exponent: i32) -> f64 {
    format!("{factor}e{exponent}").parse().expect("a decimal number")
}

/// A number with its thousands separated.
pub fn number(v: f64) -> String {
    let text = v.to_string();
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut out = String::new();
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) && !out.ends_with('-') {
            out.push(',');
        }
        out.push(digit);
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_ticks() {
        let ticks = |low, high, is_log| Axis { low, high, is_log }.ticks().into_iter().map(number).collect::<Vec<_>>();
        assert_eq!(ticks(0.0, 12_000.0, false), ["0", "2,000", "4,000", "6,000", "8,000", "10,000", "12,000"]);
        assert_eq!(ticks(-0.25, 0.32, false), ["-0.2", "-0.1", "0", "0.1", "0.2", "0.3"]);
        assert_eq!(ticks(0.015, 0.6, true), ["0.02", "0.05", "0.1", "0.2", "0.5"]);
        assert_eq!(ticks(1e-5, 1e3, true), ["0.00001", "0.0001", "0.001", "0.01", "0.1", "1", "10", "100", "1,000"]);
        assert_eq!(ticks(2.1, 3.4, true), ["2.2", "2.4", "2.6", "2.8", "3", "3.2", "3.4"]);
        let flat = Axis::around(3.0, 3.0, true);
        assert!((flat.place(3.0) - 0.5).abs() < 0.1 && flat.ticks().len() > 2, "{flat:?}");
        assert_eq!(number(-1234567.5), "-1,234,567.5");
        assert_eq!(number(-123.0), "-123");
    }

    #[test]
    fn an_exponential_is_a_straight_line() {
        let points = (0..=4).map(|i| (f64::from(i), 10f64.powi(-i))).collect();
        let curves = vec![("loss", vec![points])];
        let chart = Chart { caption: "a", curves, range: [0.0, 4.0], marks: vec![], from_zero: false };
        let expected = "M72.0,24.0L288.0,81.0L504.0,138.0L720.0,195.0L936.0,252.0h0";
        assert!(chart.to_string().contains(expected), "{chart}");
    }

    #[test]
    fn texts_are_escaped() {
        assert_eq!(Escaped("<b title=\"x\">&'").to_string(), "&lt;b title=&quot;x&quot;&gt;&amp;&#39;");
    }
}
