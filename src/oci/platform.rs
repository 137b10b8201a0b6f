//! Platforms: operating system, architecture, variant; their normal forms, and when one satisfies another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An operating system, architecture and variant in normal form
/// (OCI image-spec, "Image Index Property Descriptions"; values are Go's `GOOS` and `GOARCH`).
///
/// Normal form means: `aarch64` is `arm64`, `x86_64` is `amd64`, `arm64/v8` and `amd64/v1` have no variant, and `arm`
/// without a variant is `arm/v7`. Fields are in the order linuxkit writes them in an index.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Platform {
    /// `GOARCH`, for example `amd64`; `unknown` for attestations.
    #[serde(default)]
    pub architecture: String,
    /// `GOOS`, for example `linux`; `unknown` for attestations.
    #[serde(default)]
    pub os: String,
    /// Version of the operating system; used by Windows images only.
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Required features of the operating system.
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// Variant of the architecture, for example `v7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// Why a text is not a platform.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a platform: expected `os/arch`, `os/arch/variant` or `arch`, like `linux/arm64`")]
pub struct PlatformError {
    /// The text as given.
    pub text: String,
}

impl Platform {
    /// Returns `linux/<architecture>` in normal form.
    pub fn linux(architecture: &str) -> Self {
        Self::new("linux", architecture, None)
    }

    /// Returns the platform in normal form.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let (architecture, variant) = normal_form(&architecture.to_ascii_lowercase(), variant.unwrap_or_default());
        let os = match os.to_ascii_lowercase() {
            os if os == "macos" => "darwin".to_owned(),
            os => os,
        };
        Self { architecture, os, os_version: None, os_features: Vec::new(), variant }
    }

    /// Returns the platform of the machine this program runs on.
    pub fn host() -> Self {
        Self::new(std::env::consts::OS, std::env::consts::ARCH, None)
    }

    /// Returns whether an image of this platform is what a request for `wanted` means: equal operating system and
    /// architecture, and an equal variant unless `wanted` names none.
    pub fn satisfies(&self, wanted: &Self) -> bool {
        let own = Self::new(&self.os, &self.architecture, self.variant.as_deref());
        own.os == wanted.os
            && own.architecture == wanted.architecture
            && (wanted.variant.is_none() || own.variant == wanted.variant)
    }

    /// Returns whether this marks something that is no image, such as an attestation (`unknown/unknown`).
    pub fn is_unknown(&self) -> bool {
        self.os == "unknown" || self.architecture == "unknown" || self.os.is_empty() || self.architecture.is_empty()
    }

    /// Returns the platform with `-` between its parts and without the operating system, as in linuxkit's per-architecture
    /// tags: `amd64`, `arm-v6`.
    pub fn tag_suffix(&self) -> String {
        match &self.variant {
            Some(variant) if !(self.architecture == "arm" && variant == "v7") => format!("{}-{variant}", self.architecture),
            _ => self.architecture.clone(),
        }
    }
}

fn normal_form(architecture: &str, variant: &str) -> (String, Option<String>) {
    let (architecture, implied) = match architecture {
        "x86_64" | "x86-64" => ("amd64", ""),
        "aarch64" => ("arm64", ""),
        "i386" | "i486" | "i586" | "i686" | "x86" => ("386", ""),
        "armhf" => ("arm", "v7"),
        "armel" => ("arm", "v6"),
        "loongarch64" => ("loong64", ""),
        "powerpc64le" => ("ppc64le", ""),
        other => (other, ""),
    };
    let variant = match (architecture, if variant.is_empty() { implied } else { variant }) {
        ("arm64", "8" | "v8") | ("amd64", "v1") => "",
        ("arm", "" | "7" | "v7") => "v7",
        ("arm", "5") => "v5",
        ("arm", "6") => "v6",
        (_, other) => other,
    };
    (architecture.to_owned(), (!variant.is_empty()).then(|| variant.to_owned()))
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let error = || PlatformError { text: text.to_owned() };
        let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        let parts: Vec<&str> = text.split('/').collect();
        if !parts.iter().all(|part| word(part)) {
            return Err(error());
        }
        match parts[..] {
            ["local"] => Ok(Self::host()),
            [os @ ("linux" | "windows" | "darwin" | "freebsd")] => Ok(Self::new(os, std::env::consts::ARCH, None)),
            [architecture] => Ok(Self::linux(architecture)),
            [os, architecture] => Ok(Self::new(os, architecture, None)),
            [os, architecture, variant] => Ok(Self::new(os, architecture, Some(variant))),
            _ => Err(error()),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            // `arm` means `arm/v7`; the short form is what people and linuxkit write.
            Some(variant) if !(self.architecture == "arm" && variant == "v7") => write!(f, "/{variant}"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_platform_are_equal() {
        for (text, normal) in [
            ("arm64", "linux/arm64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/arm", "linux/arm"),
            ("linux/arm/v7", "linux/arm"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("riscv64", "linux/riscv64"),
        ] {
            assert_eq!(text.parse::<Platform>().expect(text).to_string(), normal, "{text}");
        }
        for bad in ["", "/", "linux/", "linux//v7", "linux/arm/v7/x", "linux/ arm"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_unset_variant_accepts_any_and_a_set_one_only_itself() {
        let v3: Platform = "linux/amd64/v3".parse().expect("valid");
        let plain: Platform = "linux/amd64".parse().expect("valid");
        assert!(v3.satisfies(&plain));
        assert!(!plain.satisfies(&v3));
        assert!(!Platform::linux("arm64").satisfies(&plain));
    }
}
