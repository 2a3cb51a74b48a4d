"""The authors of the papers that the built-in methods cite by their first author alone, as BibTeX writes them."""

from __future__ import annotations

__all__ = ["authors_of"]

# By title in lower case. Family names alone where the given names were not seen. "and others" stays for papers that are
# not listed: the list of their authors was not seen.
_AUTHORS = {
    "adversarial weight perturbation helps robust generalization": "Wu and Xia and Wang",
    "adversarially robust distillation": "Goldblum and Fowl and Feizi and Goldstein",
    "boosting accuracy and robustness of student models via adaptive adversarial distillation": (
        "Bo Huang and Mingyang Chen and Yi Wang and Junda Lu and Minhao Cheng and Wei Wang"
    ),
    "cfa: class-wise calibrated fair adversarial training": "Zeming Wei and Yifei Wang and Yiwen Guo and Yisen Wang",
    "dafa: distance-aware fair adversarial training": (
        "Hyungyu Lee and Saehyung Lee and Hyemi Jang and Junsung Park and Ho Bae and Sungroh Yoon"
    ),
    "enhanced accuracy and robustness via multi-teacher adversarial distillation": (
        "Zhao and Yu and Sun and Zhang and Wei"
    ),
    "enhancing robust fairness via confusional spectral regularization": (
        "Gaojie Jin and Sihao Wu and Jiaxu Liu and Tianjin Huang and Ronghui Mu"
    ),
    "fair-tat: improving model fairness using targeted adversarial training": (
        "Tejaswini Medi and Steffen Jung and Margret Keuper"
    ),
    "fairness is essential for robustness: fair adversarial training by identifying and augmenting hard examples": (
        "Ningping Mou and Xinli Yue and Lingchen Zhao and Qian Wang"
    ),
    "improving adversarial robust fairness via anti-bias soft label distillation": (
        "Shiji Zhao and Ranjie Duan and Xizhe Wang and Xingxing Wei"
    ),
    "improving adversarial robustness requires revisiting misclassified examples": (
        "Wang and Zou and Yi and Bailey and Ma and Gu"
    ),
    "improving robust fairness via balance adversarial training": (
        "Chunyu Sun and Chenye Xu and Chengyuan Yao and Siyuan Liang and Yichao Wu and Ding Liang and XiangLong Liu "
        "and Aishan Liu"
    ),
    "revisiting adversarial robustness distillation from the perspective of robust fairness": (
        "Xinli Yue and Ningping Mou and Qian Wang and Lingchen Zhao"
    ),
    "revisiting adversarial robustness distillation: robust soft labels make student better": (
        "Zi and Zhao and Ma and Jiang"
    ),
    "revisiting adversarial training for the worst-performing class": (
        "Thomas Pethick and Grigorios G. Chrysos and Volkan Cevher"
    ),
    "sy-far: symmetry-based fair adversarial robustness": "Haneen Najjar and Eyal Ronen and Mahmood Sharif",
    "theoretically principled trade-off between robustness and accuracy": (
        "Zhang and Yu and Jiao and Xing and {El Ghaoui} and Jordan"
    ),
    "to be robust or to be fair: towards fairness in adversarial training": (
        "Han Xu and Xiaorui Liu and Yaxin Li and Anil K. Jain and Jiliang Tang"
    ),
    "towards fair class-wise robustness: class optimal distribution adversarial training": (
        "Hongxin Zhi and Hongtao Yu and Shaomei Li and Xiuming Zhao and Yiteng Wu"
    ),
    "towards fairness-aware adversarial learning": (
        "Yanghao Zhang and Tianle Zhang and Ronghui Mu and Xiaowei Huang and Wenjie Ruan"
    ),
    "trix - trading adversarial fairness via mixed adversarial training": (
        "Tejaswini Medi and Steffen Jung and Margret Keuper"
    ),
    "wat: improve the worst-class robustness in adversarial training": "Boqi Li and Weiwei Liu",
}


def authors_of(title: str) -> str:
    """Return the authors of the paper with this title, joined by " and "; empty for a paper that is not listed."""
    return _AUTHORS.get(title.lower(), "")
