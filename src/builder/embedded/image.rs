//! The image config while a stage is walked: what each instruction does to it, and the history line it leaves.
//!
//! Texts and defaults are BuildKit's, so that tools which read histories read ours.

use crate::dockerfile::instruction::Healthcheck;
use crate::dockerfile::{Command, CommandLine, Shown};
use crate::oci::config::{self, Empty};
use crate::oci::{Descriptor, DiffId, History, ImageConfig, Manifest, MediaType, Platform};
use crate::time::SourceDate;

/// What made a history line that is ours.
pub(super) const HISTORY_COMMENT: &str = "pkgbuild.dockerfile.v1";

/// The `PATH` of images that set none.
pub(super) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The image that a stage has described so far.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ImageState {
    config: ImageConfig,
    created: String,
    /// Whether this stage set `CMD` itself.
    own_cmd: bool,
}

impl ImageState {
    /// Returns what `FROM scratch` starts with.
    pub(super) fn scratch(platform: Platform, date: SourceDate) -> Self {
        let mut config = ImageConfig::scratch(platform);
        config.config.working_dir = "/".to_owned();
        Self { config, created: date.to_string(), own_cmd: false }.with_path()
    }

    /// Returns what `FROM <image>` starts with: the base's config without its time of creation and its triggers, and its
    /// history with one line for each of its layers.
    pub(super) fn from_base(mut config: ImageConfig, date: SourceDate) -> Self {
        config.created = None;
        config.config.on_build.clear();
        let layers = config.rootfs.diff_ids.len();
        let mut lines = 0;
        for line in &mut config.history {
            // More lines than layers is a fault of the base that must not shift the lines of ours.
            line.empty_layer |= lines >= layers;
            lines += usize::from(!line.empty_layer);
        }
        let missing =
            History { comment: Some(HISTORY_COMMENT.to_owned()), created: Some(date.to_string()), ..History::default() };
        config.history.extend(std::iter::repeat_n(missing, layers - lines));
        Self { config, created: date.to_string(), own_cmd: false }.with_path()
    }

    /// Returns what `FROM <earlier stage>` starts with: all of it but the triggers.
    pub(super) fn child(&self) -> Self {
        let mut state = self.clone();
        state.config.config.on_build.clear();
        state.own_cmd = false;
        state
    }

    fn with_path(mut self) -> Self {
        let env = &mut self.config.config.env;
        if !env.iter().any(|pair| key(pair) == "PATH") {
            env.push(format!("PATH={DEFAULT_PATH}"));
        }
        self
    }

    /// Returns the environment the image gives its processes, as `KEY=value`, in order.
    pub(super) fn env(&self) -> impl Iterator<Item = &str> {
        self.config.config.env.iter().map(String::as_str)
    }

    /// Returns the working directory: absolute, `/` when the image sets none.
    pub(super) fn working_directory(&self) -> &str {
        match self.config.config.working_dir.as_str() {
            "" => "/",
            path => path,
        }
    }

    /// Returns `USER`, empty for none.
    pub(super) fn user(&self) -> &str {
        &self.config.config.user
    }

    /// Returns the words that run a shell-form command.
    pub(super) fn shell(&self) -> Vec<String> {
        match &self.config.config.shell[..] {
            [] => vec!["/bin/sh".to_owned(), "-c".to_owned()],
            words => words.to_vec(),
        }
    }

    /// Applies an instruction that is already expanded, and adds its line to the history. `arguments` are those declared so
    /// far, with their values, this instruction's included.
    pub(super) fn apply(&mut self, command: &Command, arguments: &[(String, Option<String>)]) {
        let shell = self.shell();
        let config = &mut self.config.config;
        match command {
            Command::Run(_) | Command::Copy(_) | Command::Add(_) | Command::Arg(_) => {}
            Command::Env(pairs) => {
                for pair in pairs {
                    let text = format!("{}={}", pair.key, pair.value);
                    match config.env.iter_mut().find(|old| key(old) == pair.key) {
                        Some(old) => *old = text,
                        None => config.env.push(text),
                    }
                }
            }
            Command::Label(pairs) => config.labels.extend(pairs.iter().map(|pair| (pair.key.clone(), pair.value.clone()))),
            Command::Workdir(path) => config.working_dir = join_directory(&config.working_dir, path),
            Command::User(user) => config.user.clone_from(user),
            Command::Cmd(line) => {
                config.cmd = given(line.argv(&shell));
                config.args_escaped = true;
                self.own_cmd = true;
            }
            Command::Entrypoint(line) => {
                config.entrypoint = given(line.argv(&shell));
                if !self.own_cmd {
                    config.cmd = None;
                }
            }
            Command::Expose(ports) => config.exposed_ports.extend(ports.iter().map(|port| (port.clone(), Empty {}))),
            Command::Volume(paths) => config.volumes.extend(paths.iter().map(|path| (path.clone(), Empty {}))),
            Command::Shell(words) => config.shell.clone_from(words),
            Command::StopSignal(signal) => config.stop_signal.clone_from(signal),
            Command::Healthcheck(check) => config.healthcheck = Some(healthcheck(check)),
            Command::Onbuild(trigger) => config.on_build.push(trigger.expression.clone()),
            Command::Maintainer(name) => self.config.author = Some(name.clone()),
        }
        let shown = Shown { shell: &shell, arguments, working_directory: self.working_directory() };
        let Some(created_by) = command.created_by(&shown) else { return };
        self.config.history.push(History {
            created: Some(self.created.clone()),
            created_by: Some(created_by),
            author: None,
            comment: Some(HISTORY_COMMENT.to_owned()),
            empty_layer: !makes_layer(command, self.working_directory()),
        });
    }

    /// Returns how many layers the history speaks of.
    pub(super) fn layer_count(&self) -> usize {
        self.config.history.iter().filter(|line| !line.empty_layer).count()
    }

    /// Returns the finished config: for `platform`, with `labels` on top and one diff id for each layer.
    pub(super) fn finish<'a>(
        &self,
        platform: &Platform,
        labels: impl IntoIterator<Item = (&'a String, &'a String)>,
        diff_ids: Vec<DiffId>,
    ) -> ImageConfig {
        let mut config = self.config.clone();
        let own = &mut config.platform;
        // The variant of the base stays where the request names none for the same architecture.
        if own.os != platform.os || own.architecture != platform.architecture || platform.variant.is_some() {
            own.variant.clone_from(&platform.variant);
        }
        own.os.clone_from(&platform.os);
        own.architecture.clone_from(&platform.architecture);
        own.variant = Platform::new(&own.os, &own.architecture, own.variant.as_deref()).variant;
        config.config.labels.extend(labels.into_iter().map(|(key, value)| (key.clone(), value.clone())));
        config.created = Some(self.created.clone());
        "layers".clone_into(&mut config.rootfs.kind);
        config.rootfs.diff_ids = diff_ids;
        config
    }
}

/// Returns whether an instruction adds a layer; `working_directory` is the one after it.
pub(super) fn makes_layer(command: &Command, working_directory: &str) -> bool {
    match command {
        Command::Run(_) | Command::Copy(_) | Command::Add(_) => true,
        Command::Workdir(_) => working_directory != "/",
        _ => false,
    }
}

/// An empty list counts as none, as in Docker's JSON.
fn given(words: Vec<String>) -> Option<Vec<String>> {
    Some(words).filter(|words| !words.is_empty())
}

fn healthcheck(check: &Healthcheck) -> config::Healthcheck {
    match check {
        Healthcheck::None => config::Healthcheck { test: vec!["NONE".to_owned()], ..Default::default() },
        Healthcheck::Check { command, interval, timeout, start_period, start_interval, retries } => {
            let test = match command {
                CommandLine::Shell(text) => vec!["CMD-SHELL".to_owned(), text.clone()],
                CommandLine::Exec(words) => [vec!["CMD".to_owned()], words.clone()].concat(),
            };
            let nanoseconds = |duration: &std::time::Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
            config::Healthcheck {
                test,
                interval: nanoseconds(interval),
                timeout: nanoseconds(timeout),
                start_period: nanoseconds(start_period),
                start_interval: nanoseconds(start_interval),
                retries: i64::from(*retries),
            }
        }
    }
}

/// Returns an OCI manifest of a config and its layers, lowest first.
pub(super) fn manifest<'a>(
    config: Descriptor,
    layers: Vec<Descriptor>,
    annotations: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Manifest {
    Manifest {
        schema_version: 2,
        media_type: Some(MediaType::MANIFEST.to_owned()),
        artifact_type: None,
        config,
        layers,
        subject: None,
        annotations: annotations.into_iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
    }
}

/// Returns the descriptor of a base's layer as an OCI manifest names it; the bytes are the same under both names.
pub(super) fn oci_layer(layer: &Descriptor) -> Descriptor {
    let media_type = match layer.media_type.as_str() {
        MediaType::DOCKER_LAYER_GZIP => MediaType::LAYER_GZIP,
        "application/vnd.docker.image.rootfs.diff.tar" => MediaType::LAYER_TAR,
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => MediaType::LAYER_ZSTD,
        other => other,
    };
    Descriptor::new(media_type, layer.size, layer.digest)
}

fn key(pair: &str) -> &str {
    pair.split_once('=').map_or(pair, |(key, _)| key)
}

/// Returns `path` joined to `base` and cleaned: absolute, without `.`, `..`, doubled or trailing slashes.
pub(super) fn join_directory(base: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let base = if path.starts_with('/') { "" } else { base };
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::dockerfile::Dockerfile;

    fn scratch() -> ImageState {
        ImageState::scratch(Platform::linux("amd64"), SourceDate(0))
    }

    fn applied(mut state: ImageState, instructions: &str) -> ImageState {
        let text = format!("FROM scratch\n{instructions}\n");
        let dockerfile = Dockerfile::parse(Path::new("Dockerfile"), text.as_bytes()).expect("valid");
        let mut arguments = Vec::new();
        for instruction in &dockerfile.stages[0].instructions {
            let command = instruction.command.expand('\\', &|_| None).expect("expands");
            if let Command::Arg(declared) = &command {
                arguments.extend(declared.iter().map(|argument| (argument.name.clone(), argument.default.clone())));
            }
            state.apply(&command, &arguments);
        }
        state
    }

    #[test]
    fn scratch_has_a_path_and_the_root_as_working_directory() {
        let config = scratch().finish(&Platform::linux("arm64"), [], Vec::new());
        assert_eq!(
            serde_json::to_string(&config).expect("writes"),
            r#"{"created":"1970-01-01T00:00:00Z","architecture":"arm64","os":"linux","config":{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"WorkingDir":"/"},"rootfs":{"type":"layers","diff_ids":[]}}"#
        );
        let arm = scratch().finish(&Platform::linux("arm"), [], Vec::new());
        assert_eq!(arm.platform.variant.as_deref(), Some("v7"));
    }

    #[test]
    fn each_instruction_leaves_the_history_line_that_buildkit_leaves() {
        for (instruction, line, empty) in [
            ("COPY --chown=1 --chmod=755 a b /", "COPY --chown=1 --chmod=755 a b / # buildkit", false),
            ("ADD a /", "ADD a / # buildkit", false),
            ("RUN x  y", "RUN /bin/sh -c x  y # buildkit", false),
            ("RUN [\"a\", \"b\"]", "RUN a b # buildkit", false),
            ("ARG A=1 B=x\nRUN cmd", "RUN |2 A=1 B=x /bin/sh -c cmd # buildkit", false),
            ("ENV a=1 b=2", "ENV a=1 b=2", true),
            ("ARG X=1", "ARG X=1", true),
            ("LABEL k=v", "LABEL k=v", true),
            ("WORKDIR /abs", "WORKDIR /abs", false),
            ("WORKDIR /abs\nWORKDIR rel/", "WORKDIR /abs/rel", false),
            ("WORKDIR /", "WORKDIR /", true),
            ("USER u", "USER u", true),
            ("CMD [\"a\", \"b\"]", "CMD [\"a\" \"b\"]", true),
            ("ENTRYPOINT [\"a\"]", "ENTRYPOINT [\"a\"]", true),
            ("CMD x", "CMD [\"/bin/sh\" \"-c\" \"x\"]", true),
            ("EXPOSE 80 443", "EXPOSE [443/tcp 80/tcp]", true),
            ("VOLUME /a /b", "VOLUME [/a /b]", true),
            ("SHELL [\"/bin/sh\", \"-c\"]", "SHELL [/bin/sh -c]", true),
            ("STOPSIGNAL SIGTERM", "STOPSIGNAL SIGTERM", true),
            ("MAINTAINER x", "MAINTAINER x", true),
            (
                "HEALTHCHECK --interval=30s CMD x",
                "HEALTHCHECK {Test:[CMD-SHELL x] Interval:30s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}",
                true,
            ),
        ] {
            let state = applied(scratch(), instruction);
            let last = state.config.history.last().expect("a line");
            assert_eq!(last.created_by.as_deref(), Some(line), "{instruction}");
            assert_eq!(last.empty_layer, empty, "{instruction}");
            assert_eq!(last.comment.as_deref(), Some("pkgbuild.dockerfile.v1"));
            assert_eq!(last.created.as_deref(), Some("1970-01-01T00:00:00Z"));
        }
        assert_eq!(applied(scratch(), "ONBUILD RUN x").config.history, []);
    }

    #[test]
    fn the_config_is_what_docker_would_run() {
        let state = applied(
            scratch(),
            "ENV A=1\nENV A=2 B=3\nLABEL z=1 a=2\nUSER u\nWORKDIR /w\nEXPOSE 80/udp\nVOLUME /v\nSTOPSIGNAL 9\n\
             SHELL [\"/bin/ash\", \"-c\"]\nCMD run it\nONBUILD RUN x\nMAINTAINER me\nHEALTHCHECK NONE",
        );
        let labels = [("a".to_owned(), "ours".to_owned())];
        let config = state.finish(&Platform::linux("amd64"), labels.iter().map(|(k, v)| (k, v)), Vec::new());
        assert_eq!(
            serde_json::to_value(&config.config).expect("writes"),
            serde_json::json!({
                "User": "u", "ExposedPorts": {"80/udp": {}},
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "A=2", "B=3"],
                "Cmd": ["/bin/ash", "-c", "run it"], "Healthcheck": {"Test": ["NONE"]}, "ArgsEscaped": true,
                "Volumes": {"/v": {}}, "WorkingDir": "/w", "OnBuild": ["RUN x"],
                "Labels": {"a": "ours", "z": "1"}, "StopSignal": "9", "Shell": ["/bin/ash", "-c"],
            })
        );
        assert_eq!(config.author.as_deref(), Some("me"));
    }

    #[test]
    fn an_entrypoint_drops_a_cmd_that_came_with_the_base() {
        let base = applied(scratch(), "CMD [\"base\"]");
        assert_eq!(applied(base.child(), "ENTRYPOINT [\"e\"]").config.config.cmd, None);
        let kept = applied(base.child(), "CMD [\"own\"]\nENTRYPOINT [\"e\"]");
        assert_eq!(kept.config.config.cmd, Some(vec!["own".to_owned()]));
        assert_eq!(applied(base, "ENTRYPOINT []").config.config.entrypoint, None);
    }

    #[test]
    fn triggers_stay_behind() {
        let base = applied(scratch(), "ONBUILD RUN x");
        assert_eq!(base.config.config.on_build, ["RUN x"]);
        assert!(base.child().config.config.on_build.is_empty());
        assert!(ImageState::from_base(base.config, SourceDate(0)).config.config.on_build.is_empty());
    }

    #[test]
    fn a_base_has_one_layer_line_for_each_of_its_layers() {
        let diff_id = DiffId(crate::oci::Digest::of(b""));
        let line = |empty_layer| History { created_by: Some("b".to_owned()), empty_layer, ..History::default() };
        for (layers, history) in [
            (2, vec![line(false), line(true), line(false)]),
            (2, vec![line(false)]),
            (1, vec![line(false), line(false)]),
            (0, vec![]),
        ] {
            let mut config = ImageConfig::scratch(Platform::linux("amd64"));
            config.rootfs.diff_ids = vec![diff_id; layers];
            config.history = history;
            config.created = Some("2020-01-01T00:00:00Z".to_owned());
            let state = ImageState::from_base(config, SourceDate(0));
            assert_eq!(state.layer_count(), layers);
            assert_eq!(state.config.created, None);
        }
    }

    #[test]
    fn directories_join_as_workdir_joins_them() {
        for (base, path, joined) in [
            ("/", "a", "/a"),
            ("", "a", "/a"),
            ("/a", "b/", "/a/b"),
            ("/a", "/b//c/.", "/b/c"),
            ("/a/b", "../..", "/"),
            ("/a", "../../x", "/x"),
            ("/a", ".", "/a"),
        ] {
            assert_eq!(join_directory(base, path), joined, "{base} {path}");
        }
    }
}
