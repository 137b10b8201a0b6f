//! The graph as text: for people, for programs, for drawing, for make.

use std::fmt::Write as _;
use std::str::FromStr;

use serde_json::{Value, json};

use super::{Graph, Via, reason};

/// A form of the graph.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// A line for each package, indented lines for what it needs and why.
    #[default]
    Text,
    /// One document, `pkgbuild.graph/v1`.
    Json,
    /// Graphviz.
    Dot,
    /// Mermaid, as many web pages draw it.
    Mermaid,
    /// Rules for make, directories as targets.
    Make,
}

impl FromStr for Format {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Ok(match text {
            "text" => Self::Text,
            "json" => Self::Json,
            "dot" => Self::Dot,
            "mermaid" => Self::Mermaid,
            "make" => Self::Make,
            _ => return Err(()),
        })
    }
}

pub(super) fn render(graph: &Graph, format: Format) -> String {
    match format {
        Format::Text => text(graph),
        Format::Json => serde_json::to_string_pretty(&document(graph)).expect("a value serializes") + "\n",
        Format::Dot => dot(graph),
        Format::Mermaid => mermaid(graph),
        Format::Make => make(graph),
    }
}

fn directory(graph: &Graph, place: usize) -> String {
    graph.packages()[place].shown.display().to_string()
}

/// Returns the packages that one needs, each once.
fn needed(graph: &Graph, place: usize) -> Vec<usize> {
    let mut places: Vec<usize> = graph.dependencies(place).iter().map(|dependency| dependency.on).collect();
    places.dedup();
    places
}

fn text(graph: &Graph) -> String {
    let mut text = String::new();
    for place in graph.order() {
        let package = &graph.packages()[*place];
        let _ = writeln!(text, "{} ({})", package.name(), package.shown.display());
        for dependency in graph.dependencies(*place) {
            let on = graph.packages()[dependency.on].name();
            let _ = writeln!(text, "  needs {on}: {}", reason(package, &dependency.via));
        }
    }
    text
}

fn document(graph: &Graph) -> Value {
    let dependency = |dependency: &super::Dependency| {
        let on = &graph.packages()[dependency.on];
        let mut value = json!({"name": on.name(), "directory": on.shown.display().to_string()});
        match &dependency.via {
            Via::Image { reference, line } => {
                value["via"] = json!("image");
                value["reference"] = json!(reference);
                value["line"] = json!(line);
            }
            Via::Argument { key } => {
                value["via"] = json!("argument");
                value["key"] = json!(key);
            }
            Via::Declared => value["via"] = json!("declared"),
        }
        value
    };
    let package = |place: &usize| {
        let package = &graph.packages()[*place];
        json!({
            "name": package.name(),
            "directory": package.shown.display().to_string(),
            "selected": graph.is_selected(*place),
            "platforms": package.platforms().iter().map(ToString::to_string).collect::<Vec<_>>(),
            "dependencies": graph.dependencies(*place).iter().map(dependency).collect::<Vec<_>>(),
        })
    };
    json!({"schema": "pkgbuild.graph/v1", "packages": graph.order().iter().map(package).collect::<Vec<_>>()})
}

fn dot(graph: &Graph) -> String {
    // Graphviz reads strings as C does, as far as names and paths go.
    let quoted = |text: String| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let mut text = "digraph packages {\n  rankdir = LR;\n".to_owned();
    for place in graph.order() {
        let name = quoted(graph.packages()[*place].name());
        let _ = writeln!(text, "  {} [label={name}];", quoted(directory(graph, *place)));
    }
    for place in graph.order() {
        for on in needed(graph, *place) {
            let _ = writeln!(text, "  {} -> {};", quoted(directory(graph, *place)), quoted(directory(graph, on)));
        }
    }
    text + "}\n"
}

fn mermaid(graph: &Graph) -> String {
    let mut text = "graph LR\n".to_owned();
    for place in graph.order() {
        // Quotes and brackets end a label; it has character references for them.
        let name = graph.packages()[*place].name().replace('"', "#quot;");
        let _ = writeln!(text, "  p{place}[\"{name}\"]");
    }
    for place in graph.order() {
        for on in needed(graph, *place) {
            let _ = writeln!(text, "  p{place} --> p{on}");
        }
    }
    text
}

fn make(graph: &Graph) -> String {
    // A dollar begins a variable, and blanks and colons part names.
    let escaped = |place: usize| {
        let mut text = String::new();
        for c in directory(graph, place).chars() {
            match c {
                '$' => text.push_str("$$"),
                ' ' | ':' | '#' | '%' | '\\' => text.extend(['\\', c]),
                c => text.push(c),
            }
        }
        text
    };
    let mut text = String::new();
    for place in graph.order() {
        let needs = needed(graph, *place).into_iter().map(|on| format!(" {}", escaped(on))).collect::<String>();
        let _ = writeln!(text, "{}:{needs}", escaped(*place));
    }
    text
}
