//! The `config` section: how `linuxkit build` is to run the image. It becomes the label `org.mobyproject.config`, whose
//! text is the JSON that Go's `encoding/json` writes for linuxkit's types, byte for byte.
//!
//! Keys inside types of the runtime-spec are their Go field names in lower case, as those types have no names for YAML.

use std::collections::BTreeMap;

use super::shape::{Field, Presence, Shape};
use super::yaml::{Node, Scalar, Value};
use Presence::{Always, Given, NotEmpty};
use Shape::{Any, Bool, Integer, List, Map, Record, Text};

const fn field(key: &'static str, shape: Shape, presence: Presence) -> Field {
    Field { key, shape, json: key, presence, doc: "" }
}

/// A key whose JSON is written otherwise than its YAML.
const fn renamed(key: &'static str, json: &'static str, shape: Shape, presence: Presence) -> Field {
    Field { key, shape, json, presence, doc: "" }
}

const I64: Shape = Integer(i64::MIN as i128, i64::MAX as i128);
const U64: Shape = Integer(0, u64::MAX as i128);
const U32: Shape = Integer(0, u32::MAX as i128);
const U16: Shape = Integer(0, u16::MAX as i128);
const TEXTS: Shape = List(&Text);

/// Keys of `config`, in the order of the label.
pub(crate) static CONFIG: &[Field] = &[
    field("capabilities", TEXTS, Given),
    field("capabilities.add", TEXTS, Given),
    field("ambient", TEXTS, Given),
    field("mounts", List(&Record(MOUNT)), Given),
    field("binds", TEXTS, Given),
    field("binds.add", TEXTS, Given),
    field("devices", List(&Record(DEVICE)), Given),
    field("tmpfs", TEXTS, Given),
    field("command", TEXTS, Given),
    field("env", TEXTS, Given),
    field("cwd", Text, NotEmpty),
    field("net", Text, NotEmpty),
    field("pid", Text, NotEmpty),
    field("ipc", Text, NotEmpty),
    field("uts", Text, NotEmpty),
    field("userns", Text, NotEmpty),
    field("hostname", Text, NotEmpty),
    field("readonly", Bool, Given),
    field("maskedPaths", TEXTS, Given),
    field("readonlyPaths", TEXTS, Given),
    field("uid", Any, Given),
    field("gid", Any, Given),
    field("additionalGids", List(&Any), Given),
    field("noNewPrivileges", Bool, Given),
    field("oomScoreAdj", I64, Given),
    field("rootfsPropagation", Text, Given),
    field("cgroupsPath", Text, Given),
    field("resources", Record(RESOURCES), Given),
    field("sysctl", Map(&Text), Given),
    field("rlimits", TEXTS, Given),
    field("uidMappings", List(&Record(ID_MAPPING)), Given),
    field("gidMappings", List(&Record(ID_MAPPING)), Given),
    field("annotations", Map(&Text), Given),
    field("runtime", Record(RUNTIME), Given),
];

static MOUNT: &[Field] = &[
    field("destination", Text, Always),
    field("type", Text, NotEmpty),
    field("source", Text, NotEmpty),
    field("options", TEXTS, NotEmpty),
    renamed("uidmappings", "uidMappings", List(&Record(ID_MAPPING)), NotEmpty),
    renamed("gidmappings", "gidMappings", List(&Record(ID_MAPPING)), NotEmpty),
];

static ID_MAPPING: &[Field] =
    &[renamed("containerid", "containerID", U32, Always), renamed("hostid", "hostID", U32, Always), field("size", U32, Always)];

static DEVICE: &[Field] = &[
    field("path", Text, Always),
    field("type", Text, Always),
    field("major", I64, Always),
    field("minor", I64, Always),
    field("mode", Text, NotEmpty),
];

static RUNTIME: &[Field] = &[
    field("cgroups", TEXTS, Given),
    field("mounts", List(&Record(MOUNT)), Given),
    field("mkdir", TEXTS, Given),
    field("interfaces", List(&Record(INTERFACE)), Given),
    field("bindNS", Record(NAMESPACES), Always),
    field("namespace", Text, Given),
];

static INTERFACE: &[Field] = &[
    field("name", Text, NotEmpty),
    field("add", Text, NotEmpty),
    field("peer", Text, NotEmpty),
    field("createInRoot", Bool, Always),
];

static NAMESPACES: &[Field] = &[
    field("cgroup", Text, Given),
    field("ipc", Text, Given),
    field("mnt", Text, Given),
    field("net", Text, Given),
    field("pid", Text, Given),
    field("user", Text, Given),
    field("uts", Text, Given),
];

// From here on: OCI runtime-spec 1.2.1, "Control groups".
static RESOURCES: &[Field] = &[
    field("devices", List(&Record(DEVICE_RULE)), NotEmpty),
    field("memory", Record(MEMORY), Given),
    field("cpu", Record(CPU), Given),
    field("pids", Record(&[field("limit", I64, Always)]), Given),
    renamed("blockio", "blockIO", Record(BLOCK_IO), Given),
    renamed("hugepagelimits", "hugepageLimits", List(&Record(HUGEPAGE_LIMIT)), NotEmpty),
    field("network", Record(NETWORK), Given),
    field("rdma", Map(&Record(RDMA)), NotEmpty),
    field("unified", Map(&Text), NotEmpty),
];

static DEVICE_RULE: &[Field] = &[
    field("allow", Bool, Always),
    field("type", Text, NotEmpty),
    field("major", I64, Given),
    field("minor", I64, Given),
    field("access", Text, NotEmpty),
];

static MEMORY: &[Field] = &[
    field("limit", I64, Given),
    field("reservation", I64, Given),
    field("swap", I64, Given),
    field("kernel", I64, Given),
    renamed("kerneltcp", "kernelTCP", I64, Given),
    field("swappiness", U64, Given),
    renamed("disableoomkiller", "disableOOMKiller", Bool, Given),
    renamed("usehierarchy", "useHierarchy", Bool, Given),
    renamed("checkbeforeupdate", "checkBeforeUpdate", Bool, Given),
];

static CPU: &[Field] = &[
    field("shares", U64, Given),
    field("quota", I64, Given),
    field("burst", U64, Given),
    field("period", U64, Given),
    renamed("realtimeruntime", "realtimeRuntime", I64, Given),
    renamed("realtimeperiod", "realtimePeriod", U64, Given),
    field("cpus", Text, NotEmpty),
    field("mems", Text, NotEmpty),
    field("idle", I64, Given),
];

static BLOCK_IO: &[Field] = &[
    field("weight", U16, Given),
    renamed("leafweight", "leafWeight", U16, Given),
    renamed("weightdevice", "weightDevice", List(&Record(WEIGHT_DEVICE)), NotEmpty),
    renamed("throttlereadbpsdevice", "throttleReadBpsDevice", List(&Record(THROTTLE_DEVICE)), NotEmpty),
    renamed("throttlewritebpsdevice", "throttleWriteBpsDevice", List(&Record(THROTTLE_DEVICE)), NotEmpty),
    renamed("throttlereadiopsdevice", "throttleReadIOPSDevice", List(&Record(THROTTLE_DEVICE)), NotEmpty),
    renamed("throttlewriteiopsdevice", "throttleWriteIOPSDevice", List(&Record(THROTTLE_DEVICE)), NotEmpty),
];

/// In Go an embedded struct: one key in YAML, but its fields stand beside the others in JSON.
const BLOCK_DEVICE: Field =
    renamed("linuxblockiodevice", "", Record(&[field("major", I64, Always), field("minor", I64, Always)]), Always);

static WEIGHT_DEVICE: &[Field] = &[BLOCK_DEVICE, field("weight", U16, Given), renamed("leafweight", "leafWeight", U16, Given)];

static THROTTLE_DEVICE: &[Field] = &[BLOCK_DEVICE, field("rate", U64, Always)];

static HUGEPAGE_LIMIT: &[Field] = &[renamed("pagesize", "pageSize", Text, Always), field("limit", U64, Always)];

static NETWORK: &[Field] = &[
    renamed("classid", "classID", U32, Given),
    field("priorities", List(&Record(&[field("name", Text, Always), field("priority", U32, Always)])), NotEmpty),
];

static RDMA: &[Field] = &[renamed("hcahandles", "hcaHandles", U32, Given), renamed("hcaobjects", "hcaObjects", U32, Given)];

/// Returns the label's text for a `config` section that was checked against [`CONFIG`].
pub(crate) fn label(config: &Node) -> String {
    let mut json = String::new();
    encode(Some(config), &Record(CONFIG), &mut json);
    json
}

/// Appends the JSON of `node`, or of its type's zero value when it is missing or null.
fn encode(node: Option<&Node>, shape: &Shape, json: &mut String) {
    let node = node.filter(|node| !node.is_null());
    match shape {
        Text | Shape::Word(_) => string(node.and_then(Node::text).unwrap_or_default(), json),
        Bool => json.push_str(if node.and_then(Node::boolean).unwrap_or(false) { "true" } else { "false" }),
        Integer(..) => json.push_str(&node.and_then(Node::integer).unwrap_or(0).to_string()),
        Any => any(node, json),
        List(item) | Shape::OneOrMore(item) => match node {
            None => json.push_str("null"),
            Some(node) => list(node.items(), |item_node, json| encode(Some(item_node), item, json), json),
        },
        Map(value) => match node {
            None => json.push_str("null"),
            Some(node) => map(node, |value_node, json| encode(Some(value_node), value, json), json),
        },
        Record(fields) => {
            json.push('{');
            let mut first = true;
            record(node, fields, &mut first, json);
            json.push('}');
        }
    }
}

fn record(node: Option<&Node>, fields: &[Field], first: &mut bool, json: &mut String) {
    for field in fields {
        let value = node.and_then(|node| node.get(field.key));
        let shown = match field.presence {
            Given => value.is_some(),
            NotEmpty => value.is_some_and(|value| !is_zero(value, &field.shape)),
            Always => true,
        };
        if !shown {
            continue;
        }
        if let (true, Record(inner)) = (field.json.is_empty(), &field.shape) {
            record(value, inner, first, json);
            continue;
        }
        if !std::mem::take(first) {
            json.push(',');
        }
        string(field.json, json);
        json.push(':');
        encode(value, &field.shape, json);
    }
}

fn is_zero(node: &Node, shape: &Shape) -> bool {
    match shape {
        Text => node.text() == Some(""),
        Bool => node.boolean() == Some(false),
        Integer(..) => node.integer() == Some(0),
        List(_) => node.items().is_empty(),
        Map(_) => node.entries().is_empty(),
        _ => false,
    }
}

fn list(items: &[Node], mut item: impl FnMut(&Node, &mut String), json: &mut String) {
    json.push('[');
    for (at, node) in items.iter().enumerate() {
        if at > 0 {
            json.push(',');
        }
        item(node, json);
    }
    json.push(']');
}

fn map(node: &Node, mut value: impl FnMut(&Node, &mut String), json: &mut String) {
    let sorted: BTreeMap<&str, &Node> = node.entries().iter().filter_map(|(key, value)| Some((key.text()?, value))).collect();
    json.push('{');
    for (at, (key, node)) in sorted.into_iter().enumerate() {
        if at > 0 {
            json.push(',');
        }
        string(key, json);
        json.push(':');
        value(node, json);
    }
    json.push('}');
}

/// A value without a type: YAML 1.2's booleans and numbers, else text.
fn any(node: Option<&Node>, json: &mut String) {
    let Some(node) = node else { return json.push_str("null") };
    match &*node.value {
        Value::Sequence(items) => list(items, |item, json| any(Some(item), json), json),
        Value::Mapping(_) => map(node, |value, json| any(Some(value), json), json),
        Value::Scalar(Scalar { text, plain: true }) if matches!(text.as_str(), "true" | "True" | "TRUE") => json.push_str("true"),
        Value::Scalar(Scalar { text, plain: true }) if matches!(text.as_str(), "false" | "False" | "FALSE") => {
            json.push_str("false");
        }
        Value::Scalar(scalar) => match (node.integer(), float(scalar)) {
            (Some(number), _) => json.push_str(&number.to_string()),
            (None, Some(number)) => json.push_str(&go_float(number)),
            (None, None) => string(&scalar.text, json),
        },
    }
}

/// Returns a finite number with a fraction or an exponent. JSON has no others.
fn float(scalar: &Scalar) -> Option<f64> {
    let text = &scalar.text;
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let looks = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') && digits.contains(|c: char| c.is_ascii_digit());
    (scalar.plain && looks).then(|| text.replace('_', "").parse().ok()).flatten().filter(|number: &f64| number.is_finite())
}

/// Writes a float as Go's `encoding/json`: shortest digits, an exponent only below 1e-6 and from 1e21 on.
fn go_float(number: f64) -> String {
    let size = number.abs();
    if size != 0.0 && !(1e-6..1e21).contains(&size) {
        let text = format!("{number:e}");
        return match text.split_once("e-") {
            Some((digits, exponent)) => format!("{digits}e-{exponent:0>2}").replace("e-0", "e-"),
            None => text.replace('e', "e+"),
        };
    }
    format!("{number}")
}

/// Writes a string as Go's `encoding/json` with its default escaping for HTML.
fn string(text: &str, json: &mut String) {
    json.push('"');
    for c in text.chars() {
        match c {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            '\u{8}' => json.push_str("\\b"),
            '\u{c}' => json.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => json.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => json.push(c),
        }
    }
    json.push('"');
}
